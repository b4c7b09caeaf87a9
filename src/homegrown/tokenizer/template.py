"""The family's chat template, as Jinja: the turn format of LongCat-Flash-Thinking-2601, Flash-Lite and LongCat-2.0.

A conversation is one line of turns without separators:

    <longcat_tool_declare>...</longcat_tool_declare><longcat_system>...<longcat_user>question /think_on
    <longcat_assistant><longcat_think>\\nreasoning\\n</longcat_think>\\nanswer</longcat_s><longcat_user>...

Switches, all passed as keyword arguments of `render_chat` (or of `apply_chat_template` in `transformers`):

- `tools`: declarations in the OpenAI form.
- `enable_thinking` (default true): whether the model is to reason; false closes an empty block for it.
- `save_reasoning_content`, or its older name `save_history_reasoning_content` (default false): keep the reasoning of
  earlier user rounds. Tool calls, tool responses and answers are always kept.
- `thinking_suffix` (default true): end user and observation turns with ` /think_on ` or ` /think_off `.
- `add_generation_prompt`: open the assistant's turn.

Every assistant turn has exactly one reasoning block, empty where there is no reasoning or where it was dropped, so
that the text behind `<longcat_assistant>` has the same shape in history as in generation.
"""

from __future__ import annotations

CHAT_TEMPLATE = r"""
{%- set thinking = enable_thinking | default(true) %}
{%- set keep_reasoning = save_reasoning_content | default(save_history_reasoning_content | default(false)) %}
{%- set suffix = (' /think_on ' if thinking else ' /think_off ') if thinking_suffix | default(true) else '' %}

{%- macro text(content) %}
    {%- if content is string %}
        {{- content }}
    {%- elif content %}
        {%- for part in content %}
            {%- if part.type != 'text' %}
                {{- raise_exception('content parts of type "' ~ part.type ~ '" are not supported, only "text"') }}
            {%- endif %}
            {{- part.text }}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}

{%- macro declare(tools) %}
    {{- '<longcat_tool_declare>\n# Tools\n\n## Tool namespace: function\n\n' }}
    {%- for tool in tools %}
        {%- set function = tool.function | default(tool) %}
        {{- '### Tool name: ' ~ function.name ~ '\n\n' }}
        {{- 'Description: ' ~ function.description | default('', true) ~ '\n\n' }}
        {{- 'InputSchema: ' ~ function.parameters | default({}, true) | tojson ~ '\n\n' }}
    {%- endfor %}
    {{- 'Call a tool with one block in this form, several blocks one after the other:\n' }}
    {{- '<longcat_tool_call>{tool name}\n' }}
    {{- '<longcat_arg_key>{argument name}</longcat_arg_key>\n' }}
    {{- '<longcat_arg_value>{argument value}</longcat_arg_value>\n</longcat_tool_call>\n' }}
    {{- 'Strings are written as they are, other values as JSON.\n</longcat_tool_declare>' }}
{%- endmacro %}

{%- macro invoke(call) %}
    {%- set function = call.function | default(call) %}
    {%- if function.arguments is not mapping %}
        {{- raise_exception('arguments of the call of "' ~ function.name ~ '" must be a mapping of names to values') }}
    {%- endif %}
    {{- '<longcat_tool_call>' ~ function.name ~ '\n' }}
    {%- for key, value in function.arguments | items %}
        {{- '<longcat_arg_key>' ~ key ~ '</longcat_arg_key>\n<longcat_arg_value>' }}
        {{- value if value is string else value | tojson }}
        {{- '</longcat_arg_value>\n' }}
    {%- endfor %}
    {{- '</longcat_tool_call>\n' }}
{%- endmacro %}

{%- set state = namespace(last_user=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set state.last_user = loop.index0 %}
    {%- endif %}
{%- endfor %}

{%- if tools %}
    {{- declare(tools) }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- '<longcat_system>' ~ text(message.content) }}
    {%- elif message.role == 'user' %}
        {{- '<longcat_user>' ~ text(message.content) ~ suffix }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}
            {{- '<longcat_observation>' }}
        {%- endif %}
        {{- '<longcat_tool_response>' ~ (message.name or message.tool_call_id) ~ '\n' }}
        {{- text(message.content) ~ '</longcat_tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}
            {{- suffix }}
        {%- endif %}
    {%- elif message.role == 'assistant' %}
        {{- '<longcat_assistant><longcat_think>\n' }}
        {%- if message.reasoning_content and (keep_reasoning or loop.index0 > state.last_user) %}
            {{- message.reasoning_content.strip('\n') }}
        {%- endif %}
        {{- '\n</longcat_think>\n' ~ text(message.content) }}
        {%- if message.tool_calls %}
            {{- '\n' if message.content else '' }}
            {%- for call in message.tool_calls %}
                {{- invoke(call) }}
            {%- endfor %}
        {%- endif %}
        {{- '</longcat_s>' }}
    {%- else %}
        {{- raise_exception('role "' ~ message.role ~ '": must be system, user, assistant or tool') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<longcat_assistant><longcat_think>\n' }}
    {%- if not thinking %}
        {{- '\n</longcat_think>\n' }}
    {%- endif %}
{%- endif %}
""".lstrip()

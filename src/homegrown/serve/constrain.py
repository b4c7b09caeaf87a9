"""What a client demands of an answer, as a grammar that compiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from homegrown.serve.conversation import Conversation, Format, Tool
from homegrown.serve.errors import ApiError
from homegrown.serve.grammar import GrammarError, check_grammar
from homegrown.serve.messages import Grammar
from homegrown.serve.parse.grammar import chat_grammar, format_grammar
from homegrown.serve.parse.tags import END_THINK, KEY
from homegrown.tokenizer import CHAT_TEMPLATE, Tokenizer


class Constraints:
    """Makes grammars for one tokenizer. Blocks while one is compiled for a look at it, which can take a second.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tags = KEY in (tokenizer.chat_template or CHAT_TEMPLATE)
        self._end_think = tokenizer.token_id(END_THINK)

    def chat(self, conversation: Conversation, tools: Sequence[Tool], thinking: bool) -> Grammar | None:
        """The grammar of an assistant's turn; None if it may be anything.

        Args:
            conversation: what was asked.
            tools: those that may be called.
            thinking: the prompt opened a thinking block, which stays free.

        Raises:
            ApiError: `invalid`: there is no such grammar.
        """
        wanted, choice = conversation.format, conversation.choice
        return self._made(
            lambda: chat_grammar(
                wanted,
                tools,
                required=choice.mode == "required",
                parallel=choice.parallel,
                lead="\n" if thinking else "",
                tags=self._tags,
            ),
            thinking,
            "tools" if tools and wanted.kind == "text" else "response_format",
        )

    def completion(self, wanted: Format) -> Grammar | None:
        """The grammar of a completion; None if it may be anything.

        Raises:
            ApiError: `invalid`: there is no such grammar.
        """
        return self._made(lambda: format_grammar(wanted), False, "response_format")

    def _made(self, make: Callable[[], str], thinking: bool, field: str) -> Grammar | None:
        try:
            lark = make()
            if not lark:
                return None
            check_grammar(self._tokenizer, lark)
        except GrammarError as error:
            raise ApiError("invalid", f"{field}: {error}.", param=field) from None
        if not thinking:
            return Grammar(lark=lark)
        if self._end_think is None:
            raise ApiError("invalid", f"{field}: this model can only be held to it with thinking off.", param=field)
        return Grammar(lark=lark, after=self._end_think)


def callable_tools(conversation: Conversation) -> tuple[Tool, ...]:
    """The declared tools that may be called."""
    choice = conversation.choice
    if choice.mode == "none":
        return ()
    return tuple(tool for tool in conversation.tools if not choice.names or tool.name in choice.names)

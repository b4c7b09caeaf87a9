"""A small honest coding agent: real tools on real files, and the official SDK of each dialect."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import openai

MODEL = "quickstart"
ROUNDS = 12
"""No task here takes more."""


def schema(**properties: Any) -> dict[str, Any]:
    """A JSON schema of an object with all of these, strings where nothing else is said."""
    named = {name: given or {"type": "string"} for name, given in properties.items()}
    return {"type": "object", "properties": named, "required": [*named], "additionalProperties": False}


TOOLS: dict[str, dict[str, Any]] = {
    "read_file": schema(path=None),
    "edit_file": schema(path=None, old=None, new=None),
    "run_file": schema(path=None, times={"type": "integer"}),
}


class Refused(Exception):
    """What a tool says of arguments that it cannot carry out."""


@dataclass
class Workshop:
    """A folder, and the tools to work in it.

    Attributes:
        done: the calls that were carried out, in order: name, arguments, result, whether it was an error.
    """

    folder: Path
    done: list[tuple[str, dict[str, Any], str, bool]] = field(default_factory=list)

    def carry_out(self, name: str, arguments: str | Mapping[str, Any]) -> tuple[str, bool]:
        """The result of a call, and whether it is an error. Arguments that are no JSON fail the test."""
        given = dict(json.loads(arguments) if isinstance(arguments, str) else arguments)
        assert set(given) == set(TOOLS[name]["properties"])
        tool: Callable[..., str] = getattr(self, name)
        try:
            result, wrong = tool(**given), False
        except Refused as error:
            result, wrong = str(error), True
        self.done.append((name, given, result, wrong))
        return result, wrong

    def read_file(self, path: str) -> str:
        return self._file(path).read_text()

    def edit_file(self, path: str, old: str, new: str) -> str:
        file = self._file(path)
        text = file.read_text()
        if text.count(old) != 1:
            raise Refused(f"{path} has that text {text.count(old)} times")
        file.write_text(text.replace(old, new))
        return f"{path} was changed"

    def run_file(self, path: str, times: int) -> str:
        command = [sys.executable, str(self._file(path)), str(times)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=30)
        return f"exit code {ran.returncode}\n{ran.stdout}{ran.stderr}"

    def _file(self, path: str) -> Path:
        file = (self.folder / path).resolve()
        if not file.is_relative_to(self.folder.resolve()) or not file.is_file():
            raise Refused(f"there is no {path} here")
        return file


Choose = Callable[[int], str]
"""What a round must be: `auto`, `none`, `required`, or the name of a tool; empty: there is none."""


def _rounds(choose: Choose) -> Iterator[str]:
    for number in range(ROUNDS):
        wanted = choose(number)
        if not wanted:
            return
        yield wanted
    raise AssertionError("it goes on and on")


class ChatCoder:
    """Over OpenAI chat completions."""

    path = "/v1/chat/completions"

    def __init__(self, url: str, tools: Mapping[str, Any], stream: bool, **options: Any) -> None:
        self._client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self._tools = [
            {"type": "function", "function": {"name": name, "parameters": parameters, "strict": True}}
            for name, parameters in tools.items()
        ]
        self._stream, self._options = stream, options

    def work(self, task: str, workshop: Workshop, choose: Choose) -> str:
        """What the model says in the end; empty if it was not let to."""
        messages: list[Any] = [{"role": "system", "content": "You program."}, {"role": "user", "content": task}]
        for wanted in _rounds(choose):
            message = self._ask(messages, self._choice(wanted))
            messages.append(message)
            if not message.tool_calls:
                return message.content
            for asked in message.tool_calls:
                result, _ = workshop.carry_out(asked.function.name, asked.function.arguments)
                messages.append({"role": "tool", "tool_call_id": asked.id, "content": result})
        return ""

    def _ask(self, messages: list[Any], choice: Any) -> Any:
        given = {"model": MODEL, "messages": messages, "tools": self._tools, "tool_choice": choice, **self._options}
        if not self._stream:
            (answer,) = self._client.chat.completions.create(**given).choices
        else:
            with self._client.chat.completions.stream(**given) as stream:
                (answer,) = stream.get_final_completion().choices
        assert answer.finish_reason == ("tool_calls" if answer.message.tool_calls else "stop")
        return answer.message

    def _choice(self, wanted: str) -> Any:
        named = {"type": "function", "function": {"name": wanted}}
        return wanted if wanted in ("auto", "none", "required") else named


class MessagesCoder:
    """Over Anthropic messages."""

    path = "/v1/messages"

    def __init__(self, url: str, tools: Mapping[str, Any], stream: bool, **options: Any) -> None:
        self._client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
        self._tools = [{"name": name, "input_schema": parameters, "strict": True} for name, parameters in tools.items()]
        given = {name: options.pop(name) for name in ("seed", "temperature") if name in options}
        self._stream, self._options = stream, {"max_tokens": 2000, "extra_body": given, **options}

    def work(self, task: str, workshop: Workshop, choose: Choose) -> str:
        """What the model says in the end; empty if it was not let to."""
        messages: list[Any] = [{"role": "user", "content": task}]
        for wanted in _rounds(choose):
            message = self._ask(messages, self._choice(wanted))
            messages.append({"role": "assistant", "content": message.content})
            asked = [block for block in message.content if block.type == "tool_use"]
            if not asked:
                return "".join(block.text for block in message.content if block.type == "text")
            results = [(block, *workshop.carry_out(block.name, block.input)) for block in asked]
            content = [
                {"type": "tool_result", "tool_use_id": block.id, "content": result, "is_error": wrong}
                for block, result, wrong in results
            ]
            messages.append({"role": "user", "content": content})
        return ""

    def _ask(self, messages: list[Any], choice: Any) -> Any:
        given = {
            "model": MODEL, "system": "You program.", "messages": messages, "tools": self._tools,
            "tool_choice": choice, **self._options,
        }  # fmt: skip
        if not self._stream:
            answer = self._client.messages.create(**given)
        else:
            with self._client.messages.stream(**given) as stream:
                answer = stream.get_final_message()
        calls = any(block.type == "tool_use" for block in answer.content)
        assert answer.stop_reason == ("tool_use" if calls else "end_turn")
        return answer

    def _choice(self, wanted: str) -> Any:
        if wanted in ("auto", "none", "required"):
            return {"type": {"required": "any"}.get(wanted, wanted)}
        return {"type": "tool", "name": wanted}


class ResponsesCoder:
    """Over OpenAI responses, with the whole conversation in every request, as Codex does it."""

    path = "/v1/responses"

    def __init__(self, url: str, tools: Mapping[str, Any], stream: bool, **options: Any) -> None:
        self._client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self._tools = [
            {"type": "function", "name": name, "parameters": parameters, "strict": True}
            for name, parameters in tools.items()
        ]
        given = {name: options.pop(name) for name in ("seed",) if name in options}
        self._stream, self._options = stream, {"extra_body": given, **options}

    def work(self, task: str, workshop: Workshop, choose: Choose) -> str:
        """What the model says in the end; empty if it was not let to."""
        items: list[Any] = [{"role": "user", "content": task}]
        for wanted in _rounds(choose):
            response = self._ask(items, self._choice(wanted))
            items += response.output
            asked = [item for item in response.output if item.type == "function_call"]
            if not asked:
                return response.output_text
            for item in asked:
                result, _ = workshop.carry_out(item.name, item.arguments)
                items.append({"type": "function_call_output", "call_id": item.call_id, "output": result})
        return ""

    def _ask(self, items: list[Any], choice: Any) -> Any:
        given = {
            "model": MODEL, "instructions": "You program.", "input": items, "tools": self._tools,
            "tool_choice": choice, "store": False, "include": ["reasoning.encrypted_content"], **self._options,
        }  # fmt: skip
        if not self._stream:
            answer = self._client.responses.create(**given)
        else:
            with self._client.responses.stream(**given) as stream:
                answer = stream.get_final_response()
        assert answer.status == "completed"
        return answer

    def _choice(self, wanted: str) -> Any:
        return wanted if wanted in ("auto", "none", "required") else {"type": "function", "name": wanted}


CODERS = (ChatCoder, MessagesCoder, ResponsesCoder)

"""A server under load, and how it is asked."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from homegrown.bench.serve.http import Client, HttpError
from homegrown.bench.serve.outcome import Outcome
from homegrown.bench.serve.sessions import Session, Turn
from homegrown.bench.serve.stream import Reader, explain
from homegrown.config import UserError

Api = Literal["completions", "chat"]
PATHS: dict[Api, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How requests are worded.

    Attributes:
        api: which of the two.
        temperature: 0 is greedy.
        ignore_eos: answers have the length that was asked for.
        timeout_s: a request that takes longer has failed.
        strict: the server refuses fields it does not know, as that of `transformers` does; it is told in its own words
            what others are told by `ignore_eos`.
    """

    api: Api = "completions"
    temperature: float = 0.0
    ignore_eos: bool = True
    timeout_s: float = 600.0
    strict: bool = False


class Dialogue:
    """The prompt of a session, which grows with every turn.

    Args:
        session: whose.
        api: what form prompts have.
    """

    def __init__(self, session: Session, api: Api) -> None:
        self._api, self._text = api, session.prefix
        self._messages: list[dict[str, Any]] = []

    def ask(self, turn: Turn, number: int) -> dict[str, Any]:
        """The members of a request that hold the prompt of the next turn."""
        if self._api == "completions":
            self._text += turn.text
            return {"prompt": self._text}
        if number == 0:
            self._messages.append({"role": "user", "content": (self._text + turn.text).lstrip()})
        else:
            self._messages.append({"role": "tool", "tool_call_id": f"call_{number}", "content": turn.text.lstrip()})
        return {"messages": self._messages}

    def answered(self, outcome: Outcome, number: int) -> None:
        """The answer becomes part of the prompt; in a chat, with a call whose result the next turn is."""
        self._text += outcome.text
        call = {"name": "run", "arguments": json.dumps({"step": number + 1})}
        message: dict[str, Any] = {"role": "assistant", "content": outcome.text}
        if outcome.reasoning:
            message["reasoning_content"] = outcome.reasoning
        message["tool_calls"] = [{"id": f"call_{number + 1}", "type": "function", "function": call}]
        self._messages.append(message)


class Target:
    """A server.

    Args:
        url: where it is.
        model: what it calls the model; empty: what it lists first.
        asking: how it is asked.
        key: sent as a bearer token, if there is one.
    """

    def __init__(self, url: str, asking: Asking, model: str = "", key: str = "") -> None:
        self.client = Client(url, {"Authorization": f"Bearer {key}"} if key else None)
        self.asking, self.model = asking, model

    async def find_model(self) -> None:
        """Ask which model it serves, unless that is known.

        Raises:
            UserError: it does not say.
        """
        if self.model:
            return
        url = f"{self.client.url}/v1/models"
        try:
            status, body = await self.client.get("/v1/models")
            if status != 200:
                raise UserError(f"{url}: answers {status}: {_why(body)}; --model-name says which model to ask for")
            self.model = str(msgspec.json.decode(body)["data"][0]["id"])
        except HttpError as error:
            raise UserError(f"{url}: {error}") from None
        except (msgspec.DecodeError, KeyError, IndexError, TypeError):
            raise UserError(f"{url}: lists no model; --model-name says which one to ask for") from None

    async def ask(self, outcome: Outcome, prompt: dict[str, Any], began: float) -> None:
        """Send one request and fill its outcome; whatever fails is noted there.

        Args:
            outcome: says how many tokens are wanted.
            prompt: the members that `Dialogue.ask` made.
            began: `time.perf_counter()` at the run's beginning.
        """
        body = _encode({**prompt, **self.settings(outcome.wanted)})
        reader = Reader(outcome, began)
        outcome.sent = time.perf_counter() - began
        try:
            async with asyncio.timeout(self.asking.timeout_s):
                status, rest = await self.client.post(PATHS[self.asking.api], body, reader.take)
            if status != 200:
                outcome.error, outcome.message = f"HTTP {status}", _why(rest)
        except TimeoutError:
            outcome.error, outcome.message = "timeout", f"took longer than {self.asking.timeout_s:g} s"
        except HttpError as error:
            outcome.error, outcome.message = "connection", str(error)
        outcome.ended = time.perf_counter() - began
        reader.finish()

    def settings(self, tokens: int) -> dict[str, Any]:
        """The members of a request beside its prompt."""
        asking = self.asking
        made: dict[str, Any] = {
            "model": self.model,
            "max_tokens": tokens,
            "temperature": asking.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if asking.ignore_eos and asking.strict:
            config = {"do_sample": asking.temperature > 0, "max_new_tokens": tokens, "eos_token_id": -1}
            made["generation_config"] = json.dumps(config)
        elif asking.ignore_eos:
            made["ignore_eos"] = True
        return made


def _why(body: bytes) -> str:
    try:
        return explain(msgspec.json.decode(body))
    except msgspec.DecodeError:
        return body[:200].decode("utf-8", "replace")

"""Between the APIs and the engine: requests to prompts, tokens to events."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from homegrown.config import ModelConfig
from homegrown.serve.backend import Backend
from homegrown.serve.card import ModelCard
from homegrown.serve.checks import check_format, check_options, check_tools
from homegrown.serve.constrain import Constraints, callable_tools
from homegrown.serve.conversation import Completion, Conversation, Options
from homegrown.serve.errors import ApiError
from homegrown.serve.events import Event, Failed
from homegrown.serve.follow import Follower, Reading
from homegrown.serve.merge import Merged
from homegrown.serve.messages import Grammar, Request, Sampling
from homegrown.serve.render import Prompt, Renderer
from homegrown.tokenizer import Tokenizer

T = TypeVar("T")

ROLES = ("<longcat_system>", "<longcat_user>", "<longcat_assistant>", "<longcat_observation>")
"""Tokens that open a turn: a model that writes one has said what it had to say."""
PREPARING = 2
"""Prompts that are rendered and encoded at a time; others wait, to leave memory and processors to the engine."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A request that has been checked and is ready to run.

    Attributes:
        requests: one an answer.
        prompt_tokens: of each of them.
        thinking: the prompt opened a thinking block.
        reading: how the answers are to be read.
    """

    requests: tuple[Request, ...]
    prompt_tokens: int
    thinking: bool
    reading: Reading


class Service:
    """Runs chats and completions.

    Args:
        backend: the engine.
        tokenizer: the model's.
        config: the model's.
        card: what is told of it; its context length may be shorter than the model's.
        defaults: for what clients leave out; by default the card's longest answer and temperature 1.

    Attributes:
        max_characters: no longer prompt can fit; what receives requests need not take more.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        config: ModelConfig,
        card: ModelCard,
        defaults: Sampling | None = None,
    ) -> None:
        self.backend, self.tokenizer, self.card = backend, tokenizer, card
        self.defaults = defaults or Sampling(max_tokens=card.max_output)
        self._vocab_size = config.vocab_size
        self._context = min(card.context_length, config.max_position_embeddings)
        self._renderer = Renderer(tokenizer, self._context, config.vocab_size, card.thinking)
        self.max_characters = self._renderer.max_characters
        self._constraints = Constraints(tokenizer)
        self._ends = frozenset({tokenizer.eos_id, config.eos_token_id})
        self._roles = tuple(token for role in ROLES if (token := tokenizer.token_id(role)) is not None)
        self._workers = ThreadPoolExecutor(PREPARING, thread_name_prefix="prepare")

    def sampling(self, **given: Any) -> Sampling:
        """The defaults with what a client gave.

        Args:
            given: fields of `Sampling`; those that are `None` were not given. `top_k` -1 is 0, as other servers have
                it. Without a seed a random one is taken.
        """
        chosen = {name: value for name, value in given.items() if value is not None}
        if chosen.get("top_k") == -1:
            chosen["top_k"] = 0
        chosen.setdefault("seed", secrets.randbits(32))
        return msgspec.structs.replace(self.defaults, **chosen)

    async def prepare_chat(self, conversation: Conversation) -> Prepared:
        """Check, render and encode a conversation; nothing runs yet.

        Raises:
            ApiError: it cannot be carried out.
        """
        return await self._aside(lambda: self._chat(conversation))

    async def prepare_completion(self, completion: Completion) -> Prepared:
        """Check and encode a text to be continued; nothing runs yet.

        Raises:
            ApiError: it cannot be carried out.
        """
        return await self._aside(lambda: self._completion(completion))

    async def events(self, *prepared: Prepared) -> AsyncGenerator[Event, None]:
        """Run requests, and tell what becomes of them. Closing it early ends them in the engine.

        Args:
            prepared: each to be run once. Answers are numbered through: those of the first, then those of the next.
        """
        pairs = [(request, each.reading) for each in prepared for request in each.requests]
        followers = [Follower(at, *pair, self.tokenizer) for at, pair in enumerate(pairs)]
        merged = Merged(self.backend, [request for request, _ in pairs])
        async with aclosing(merged.steps()) as steps:
            async for number, output in steps:
                follower = followers[number]
                if follower.over:
                    continue
                made = follower.lost() if output is None else follower.push(output)
                if follower.over and output and not output.finish:
                    await merged.give_up(number)
                for event in made:
                    yield event
                    if isinstance(event, Failed):
                        return

    async def count(self, conversation: Conversation) -> int:
        """How many tokens the prompt of a conversation has.

        Raises:
            ApiError: it cannot be rendered.
        """
        return len(await self.tokenize_chat(conversation))

    async def tokenize_chat(self, conversation: Conversation) -> list[int]:
        """The prompt of a conversation.

        Raises:
            ApiError: it cannot be rendered.
        """
        check_tools(conversation.tools, conversation.choice)
        prompt = await self._aside(lambda: self._renderer.chat(conversation))
        return prompt.tokens

    async def tokenize(self, text: str, bos: bool = True) -> list[int]:
        """The ids of a text; special tokens in it are special.

        Raises:
            ApiError: it is not Unicode, or far too long.
        """
        return await self._aside(lambda: self._renderer.text(text, bos))

    def detokenize(self, tokens: list[int]) -> str:
        """The text of ids.

        Raises:
            ApiError: the model does not have one of them.
        """
        self._renderer.check_ids(tokens, "tokens")
        return self.tokenizer.decode(tokens)

    def token_bytes(self, token: int) -> bytes:
        """What an id stands for.

        Raises:
            ApiError: the model does not have it.
        """
        self._renderer.check_ids([token], "token")
        return self.tokenizer.decode_bytes([token])

    async def _aside(self, work: Callable[[], T]) -> T:
        """Run what takes long where it does not hold up the streams of others."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)

    def _chat(self, conversation: Conversation) -> Prepared:
        self._check_ready()
        options = conversation.options
        check_options(options, self._vocab_size)
        check_tools(conversation.tools, conversation.choice)
        check_format(conversation.format)
        prompt = self._renderer.chat(conversation)
        reading = Reading(
            chat=True,
            thinking=prompt.thinking,
            tools=callable_tools(conversation),
            parallel=conversation.choice.parallel,
            stop=options.stop,
            ends=self._ends_of(options.sampling) | set(self._roles),
        )
        grammar = self._constraints.chat(conversation, reading.tools, prompt.thinking)
        return self._prepared(prompt, options, reading, grammar, self._roles, "messages")

    def _completion(self, completion: Completion) -> Prepared:
        self._check_ready()
        options = completion.options
        check_options(options, self._vocab_size)
        check_format(completion.format)
        prompt = self._renderer.completion(completion)
        echo = completion.prompt if isinstance(completion.prompt, str) else self.tokenizer.decode(completion.prompt)
        reading = Reading(
            chat=False,
            stop=options.stop,
            ends=self._ends_of(options.sampling),
            echo=echo if completion.echo else "",
        )
        grammar = self._constraints.completion(completion.format)
        return self._prepared(prompt, options, reading, grammar, (), "prompt")

    def _prepared(
        self,
        prompt: Prompt,
        options: Options,
        reading: Reading,
        grammar: Grammar | None,
        stop_ids: tuple[int, ...],
        field: str,
    ) -> Prepared:
        length = len(prompt.tokens)
        if length >= self._context:
            message = f"The prompt has {length} tokens; the longest context is {self._context}, answer included."
            raise ApiError("context_length", message, param=field)
        sampling = options.sampling
        room = min(sampling.max_tokens, self.card.max_output, self._context - length)
        sampling = msgspec.structs.replace(
            sampling,
            max_tokens=room,
            min_tokens=min(sampling.min_tokens, room),
            stop_ids=(*sampling.stop_ids, *stop_ids),
            grammar=grammar,
        )
        name, now = uuid.uuid4().hex, time.time()
        requests = tuple(
            Request(
                id=f"{name}-{number}",
                prompt=prompt.tokens,
                sampling=msgspec.structs.replace(sampling, seed=_wrapped(sampling.seed + number)),
                tenant=options.tenant,
                priority=options.priority,
                salt=options.salt,
                arrived=now,
            )
            for number in range(options.answers)
        )
        return Prepared(requests=requests, prompt_tokens=length, thinking=prompt.thinking, reading=reading)

    def _ends_of(self, sampling: Sampling) -> frozenset[int]:
        return frozenset(sampling.stop_ids) | (frozenset() if sampling.ignore_eos else self._ends)

    def _check_ready(self) -> None:
        if self.backend.state != "ready":
            raise ApiError("unavailable", f"The model is not ready: it is {self.backend.state}.", retry_after=5.0)


def _wrapped(seed: int) -> int:
    """A sum of seeds as a signed 64-bit integer."""
    return (seed + 2**63) % 2**64 - 2**63

"""From a request to a sequence: checked, and its grammar compiled beside the steps of others."""

from __future__ import annotations

import queue
from concurrent.futures import Future

import msgspec

from homegrown.config import ModelConfig
from homegrown.serve.engine.choice import Choice
from homegrown.serve.engine.sequence import Sequence
from homegrown.serve.grammar import GrammarCompiler, GrammarError, Matcher
from homegrown.serve.messages import Grammar, Output, Request
from homegrown.tokenizer import Tokenizer

PATIENCE = 0.02
"""Seconds to wait for a grammar where there is nothing else to do."""


class Intake:
    """Requests between their arrival and the queue.

    Args:
        config: the model.
        longest: tokens that a request may have in all.
        tokenizer: the model's, for grammars.
    """

    def __init__(self, config: ModelConfig, longest: int, tokenizer: Tokenizer | None) -> None:
        self._config, self._longest = config, longest
        self._ends = {config.eos_token_id} | ({tokenizer.eos_id} if tokenizer else set())
        self._compiler = None if tokenizer is None else GrammarCompiler(tokenizer, sorted(self._ends))
        self._new: dict[str, tuple[Request, Future[Matcher] | None]] = {}
        self._done: queue.SimpleQueue[str] = queue.SimpleQueue()  # of these, whose grammars are compiled
        self._refused: list[Output] = []
        self._came = 0

    def __len__(self) -> int:
        return len(self._new)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._new

    @property
    def busy(self) -> bool:
        """Whether something came that has not been handed on."""
        return bool(self._new or self._refused)

    def add(self, request: Request) -> None:
        """A request came."""
        problem = self._problem(request)
        if problem:
            self._refuse(request, problem)
            return
        compiling = self._compile(request.sampling.grammar)
        self._new[request.id] = (request, compiling)
        if compiling is None:
            self._done.put(request.id)
        else:
            compiling.add_done_callback(lambda future: self._done.put(request.id))

    def abort(self, request_id: str) -> bool:
        """Forget a request; whether it was here."""
        found = self._new.pop(request_id, None)
        if found is not None and found[1] is not None:
            found[1].cancel()
        return found is not None

    def refused(self) -> list[Output]:
        """What is said to requests that cannot be run; said once."""
        refused, self._refused = self._refused, []
        return refused

    def ready(self, wait_for_one: bool) -> list[Sequence]:
        """Requests that can run, each handed out once; told to, it waits a moment for one."""
        found: list[Sequence] = []
        while (request_id := self._next(PATIENCE if wait_for_one and self._new and not found else 0)) is not None:
            request, compiling = self._new.pop(request_id, (None, None))
            if request is None:
                continue  # aborted since
            try:
                found.append(self._sequence(request, None if compiling is None else compiling.result()))
            except GrammarError as error:
                self._refuse(request, str(error))
        return found

    def _next(self, seconds: float) -> str | None:
        try:
            return self._done.get(timeout=seconds) if seconds else self._done.get_nowait()
        except queue.Empty:
            return None

    def _sequence(self, request: Request, matcher: Matcher | None) -> Sequence:
        longest = min(len(request.prompt) + request.sampling.max_tokens, self._longest)
        sampling = msgspec.structs.replace(request.sampling, max_tokens=longest - len(request.prompt))
        request = msgspec.structs.replace(request, sampling=sampling)
        self._came += 1
        return Sequence(request, self._came, Choice(request, self._config.vocab_size, self._ends, matcher), longest)

    def _compile(self, grammar: Grammar | None) -> Future[Matcher] | None:
        return None if grammar is None or self._compiler is None else self._compiler.begin(grammar.lark)

    def _refuse(self, request: Request, error: str) -> None:
        self._refused.append(Output(id=request.id, finish="error", error=error))

    def _problem(self, request: Request) -> str:
        """What keeps a request from being run at all."""
        last, prompt = self._config.vocab_size - 1, request.prompt
        if not prompt:
            return "the prompt has no tokens; give at least one, such as the beginning-of-sequence token"
        if min(prompt) < 0 or max(prompt) > last:
            foreign = next(token for token in prompt if not 0 <= token <= last)
            return f"the prompt holds token id {foreign}; the model's ids are 0 to {last}"
        if len(prompt) >= self._longest:
            return (
                f"the prompt has {len(prompt)} tokens; the longest context here is {self._longest}, one place of it "
                "for an answer"
            )
        if request.sampling.max_tokens < 1:
            return f"max_tokens = {request.sampling.max_tokens}: must be at least 1"
        if request.sampling.grammar is not None and self._compiler is None:
            return "a grammar needs the model's tokenizer, and this model has none"
        return ""

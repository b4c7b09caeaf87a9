"""The engine: many requests on one model, one step at a time.

A step is: schedule, run, choose, draft, commit. Nothing here waits, knows text, or knows who asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
from torch import Tensor

from homegrown.config import ConfigError
from homegrown.serve.engine.intake import Intake
from homegrown.serve.engine.memory import KeyMemory
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.engine.pages import PagePool, page_bytes
from homegrown.serve.engine.passing import Answer, batch, choose_answers, draft_batch
from homegrown.serve.engine.runner import Runner
from homegrown.serve.engine.scheduler import Plan, Scheduler
from homegrown.serve.engine.sequence import Sequence
from homegrown.serve.engine.served import Served
from homegrown.serve.messages import Output, Request, Stats
from homegrown.tokenizer import Tokenizer

RECENT = 0.9
"""What earlier steps count in the figures of "lately"."""


class Engine:
    """Runs requests.

    Args:
        model: what writes.
        options: how.
        tokenizer: of the model; only grammars need it, and its end-of-sequence token ends answers too.
        runner: runs it, if something has been arranged for that; its pages are those of `pool_for`.

    Attributes:
        longest: tokens, prompt and answer together, that a request may have.

    Raises:
        ConfigError: the options do not fit the model, or no page fits into their memory.
    """

    def __init__(
        self,
        model: Served,
        options: EngineOptions,
        tokenizer: Tokenizer | None = None,
        runner: Runner | None = None,
    ) -> None:
        config = model.config
        options.check(config)
        self._config, self._options, self._drafts = config, options, options.drafts(config)
        self._runner = runner or Runner(model, pool_for(model, options), options.invariant)
        pool = self._runner.pool
        self._memory = KeyMemory(pool, options, self._drafts)
        self._scheduler = Scheduler(options, self._memory, self._drafts)
        self.longest = min(config.max_position_embeddings, self._memory.capacity)
        self._intake = Intake(config, self.longest, tokenizer)
        self._sequences: dict[str, Sequence] = {}
        self._outputs: list[Output] = []
        self._counted = Stats(pages=pool.pages)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do and nothing to tell."""
        return not (self._sequences or self._intake.busy or self._outputs)

    def add(self, request: Request) -> None:
        """Take a request. What is wrong with it comes as its output.

        Raises:
            ValueError: a request with its id is here already.
        """
        if request.id in self._sequences or request.id in self._intake:
            raise ValueError(f"a request with the id {request.id!r} is running already: give each its own")
        self._intake.add(request)

    def abort(self, request_id: str) -> None:
        """End a request now, if it has not ended; its pages are free at once."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._end(sequence, Output(id=request_id, finish="abort"))
        elif self._intake.abort(request_id):
            self._refuse(Output(id=request_id, finish="abort"))

    def step(self) -> list[Output]:
        """Run one pass, if there is anything to run.

        Returns:
            What became of requests since the last step, in no particular order.
        """
        self._take_in()
        plan = self._plan()
        if plan.pieces:
            began = time.perf_counter()
            logits = self._run(plan)
            answers = choose_answers(plan.pieces, logits, self._runner.real_experts)
            drafts = self._draft(answers)
            self._commit(plan, answers, drafts)
            self._count(plan, time.perf_counter() - began)
        outputs, self._outputs = self._outputs, []
        return outputs

    def stats(self) -> Stats:
        """How it is doing."""
        scheduler, memory = self._scheduler, self._memory
        begun = [*scheduler.running.values(), *scheduler.following.values()]
        return msgspec.structs.replace(
            self._counted,
            running=len(scheduler.running),
            waiting=len(scheduler.queue) - memory.swapped + len(scheduler.following) + len(self._intake),
            swapped=memory.swapped,
            waiting_tokens=scheduler.queue.tokens + sum(sequence.left for sequence in begun),
            pages_used=memory.used,
            pages_cached=memory.cached,
            host_pages_used=memory.host_used,
            preempted=scheduler.preempted,
        )

    def check(self) -> None:
        """Verify the books of pages; for tests, and when idle.

        Raises:
            PoolError: they do not add up.
        """
        self._memory.check(list(self._sequences.values()))

    def _take_in(self) -> None:
        """Let requests that are ready to run wait for their turn."""
        for sequence in self._intake.ready(wait_for_one=not self._sequences):
            self._sequences[sequence.id] = sequence
            self._scheduler.add(sequence)
        for output in self._intake.refused():
            self._refuse(output)

    def _plan(self) -> Plan:
        """What the next pass runs."""
        return self._scheduler.schedule()

    def _refuse(self, output: Output) -> None:
        self._counted.finished += 1
        self._outputs.append(output)

    def _run(self, plan: Plan) -> Tensor:
        """The pass: logits of what each piece wants, one behind the other."""
        for piece in plan.pieces:
            self._begin(piece.sequence)
        return self._runner.forward(batch(self._config, plan.pieces))

    def _begin(self, sequence: Sequence) -> None:
        """A sequence's prompt is being computed."""
        if sequence.started():
            self._counted.prompt_tokens += sequence.usage.prompt_tokens
            self._counted.cached_tokens += sequence.usage.cached_tokens

    def _draft(self, answers: list[Answer]) -> dict[str, list[int]]:
        """Proposals for what comes behind the new tokens, by request."""
        drafting = [answer for answer in answers if not answer.sequence.choice.error]
        if not self._drafts or not drafting:
            return {}
        drafts = self._runner.draft(draft_batch(self._config, drafting, self._drafts))
        return {answer.sequence.id: made for answer, made in zip(drafting, drafts, strict=True)}

    def _commit(self, plan: Plan, answers: list[Answer], drafts: dict[str, list[int]]) -> None:
        """Count what was computed, hand on what was made, let go of what has ended."""
        answered = {answer.sequence.id for answer in answers}
        for piece in plan.pieces:
            if piece.sequence.id not in answered:
                piece.sequence.computed += piece.count
                self._memory.publish(piece.sequence)
        for answer in answers:
            self._take(answer, drafts.get(answer.sequence.id, []))

    def _take(self, answer: Answer, drafts: list[int]) -> None:
        sequence, choice = answer.sequence, answer.sequence.choice
        output = Output(id=sequence.id, tokens=answer.tokens, scores=answer.scores, compute=answer.compute)
        output.finish, output.error = choice.finish, choice.error
        if choice.error:
            if not answer.sound:
                self._memory.cleanse(sequence)
            self._end(sequence, output)
            return
        sequence.computed = len(sequence.tokens) + answer.accepted
        sequence.answered(answer.tokens, len(sequence.drafts), answer.accepted)
        self._scheduler.queue.answered(sequence, len(answer.tokens))
        self._memory.publish(sequence)
        self._counted.drafted += len(sequence.drafts)
        self._counted.accepted += answer.accepted
        self._counted.decode_tokens += len(answer.tokens)
        sequence.drafts = drafts
        if choice.finish:
            self._end(sequence, output)
        else:
            self._tell(sequence, output)

    def _tell(self, sequence: Sequence, output: Output) -> None:
        if not sequence.told or output.finish:
            output.usage = msgspec.structs.replace(sequence.usage)
        if output.tokens and not sequence.told:
            output.prompt_scores, sequence.prompt_scores = sequence.prompt_scores, None
        sequence.told = True
        self._outputs.append(output)

    def _end(self, sequence: Sequence, output: Output) -> None:
        del self._sequences[sequence.id]
        self._scheduler.remove(sequence)
        self._counted.finished += 1
        self._tell(sequence, output)

    def _count(self, plan: Plan, seconds: float) -> None:
        self._scheduler.cost.observe(plan.work, seconds)
        counted = self._counted
        counted.steps += 1
        counted.prefill_tokens += plan.work.prefill
        counted.step_s = _recent(counted.step_s, seconds)
        if plan.work.prefill:
            counted.prefill_rate = _recent(counted.prefill_rate, plan.work.prefill / seconds)


def pool_for(model: Served, options: EngineOptions, make: Callable[..., PagePool] = PagePool) -> PagePool:
    """The pages that a model is given, made by `make` with the arguments of `PagePool`.

    Raises:
        ConfigError: no page fits into their memory.
    """
    drafts = options.drafts(model.config) > 0
    size = page_bytes(model.config, options.page_size, model.dtype, drafts)
    pages = options.pages or options.memory // size
    if not pages:
        raise ConfigError(f"engine.memory = {options.memory}: a page of this model takes {size} bytes; give it more")
    return make(model.config, pages, options.page_size, model.device, model.dtype, drafts)


def _recent(before: float, now: float) -> float:
    return RECENT * before + (1 - RECENT) * now if before else now

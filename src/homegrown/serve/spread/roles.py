"""Which engine a process runs: one for all, one for prompts, or one for answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from homegrown.serve.engine.engine import Engine
from homegrown.serve.engine.runner import Runner
from homegrown.serve.engine.served import Served
from homegrown.serve.spread.decode import DecodeEngine
from homegrown.serve.spread.prefill import PrefillEngine
from homegrown.serve.spread.prompts import Prompts
from homegrown.serve.spread.streams import PrefillServer
from homegrown.serve.spread.transfer import shape_of
from homegrown.serve.worker.protocol import Launch
from homegrown.tokenizer import Tokenizer


class Parts(NamedTuple):
    """What an engine is made of; `runner` as in `Engine`."""

    model: Served
    tokenizer: Tokenizer | None
    runner: Runner | None = None


def engine_for(launch: Launch, parts: Parts, wake: Callable[[], None]) -> Engine:
    """The engine that a process was launched for.

    Args:
        launch: says which.
        parts: what it is made of.
        wake: called, from other threads, when there is something to do that came by another way than `Engine.add`.

    Raises:
        ConfigError: as from `Engine`.
        OSError: it cannot listen where it should.
    """
    transfer, options, model = launch.transfer, launch.options, parts.model
    if transfer is None:
        return Engine(model, options, parts.tokenizer, parts.runner)
    options.check(model.config)
    shape = shape_of(model.config, options, model.norm.weight) + launch.weights.encode()
    if transfer.listen:
        server = PrefillServer(transfer.listen, transfer.secret, shape, wake)
        return PrefillEngine(model, options, parts.tokenizer, parts.runner, server)
    prompts = Prompts(transfer.ask, transfer.secret, shape, wake)
    return DecodeEngine(model, options, parts.tokenizer, parts.runner, prompts, transfer.own)

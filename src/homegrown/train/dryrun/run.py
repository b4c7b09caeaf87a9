"""The dry run of several ranks: each by itself, then against the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from homegrown.config import ConfigError, TrainConfig, UserError, require
from homegrown.parallel.layout import settle
from homegrown.train.dryrun.agreement import disagreements, witnesses
from homegrown.train.dryrun.job import Rehearsal, rehearse
from homegrown.train.dryrun.verdict import check_fit


class DisagreementError(UserError):
    """Ranks would wait for one another for ever, or exchange other sizes than they expect; the message says which."""


@dataclass(frozen=True)
class Request:
    """What to try.

    Attributes:
        world: number of processes.
        ranks: which of them to look at; none takes the first and the last.
        memory: bytes of a device; 0 does not ask whether ranks fit.
        check_ranks: look at those beside them in every group as well, and compare their messages.
    """

    world: int
    ranks: tuple[int, ...] = ()
    memory: int = 0
    check_ranks: bool = False


def dry_run(config: TrainConfig, request: Request, tell: Callable[[Rehearsal], None]) -> tuple[int, ...]:
    """Rehearse a step of some ranks of a job.

    Args:
        config: the job.
        request: what to try.
        tell: called with each of the ranks that were asked for, as soon as it is through.

    Returns:
        The ranks that were found to agree with one another; none if that was not asked.

    Raises:
        ConfigError: the layout does not divide, or has no such rank.
        FitError: a rank does not fit its device.
        DisagreementError: ranks do not agree on what they send one another.
    """
    require(request.world > 0, "--world-size: a dry run needs the number of processes")
    layout = settle(config.parallel, request.world, config.model, config.data)
    ranks = request.ranks or tuple(dict.fromkeys((0, layout.world - 1)))
    for rank in ranks:
        if not 0 <= rank < layout.world:
            raise ConfigError(f"rank {rank}: the layout has ranks 0 to {layout.world - 1}")
    traces = {}
    refused: list[UserError] = []
    for rank in ranks:
        done = rehearse(config, layout, rank)
        tell(done)
        traces[rank] = done.messages
        if request.memory:
            try:
                check_fit(done, request.memory)
            except UserError as error:
                refused.append(error)
    if refused:
        raise refused[0]
    if not request.check_ranks:
        return ()
    beside = {witness for rank in ranks for witness in witnesses(layout, rank)}
    for rank in sorted(beside - traces.keys()):
        traces[rank] = rehearse(config, layout, rank).messages
    found = disagreements(traces)
    if found:
        raise DisagreementError("; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else ""))
    return tuple(sorted(traces))

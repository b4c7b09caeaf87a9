"""`homegrown verify`: is a run's record whole, and did another run do the same?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from homegrown.cli.common import parse
from homegrown.config import UsageError

if TYPE_CHECKING:
    from homegrown.train.verify import Story

SUMMARY = "check a run's record, compare two runs bit for bit, or do steps of a run again and compare"


@dataclass(frozen=True)
class Verify:
    """Check that the hash chain of a run's ledger is whole; with --against, compare the run with another one step by
    step; with --replay, take steps of it again.

    The ledger holds the exact bits of every step's loss and gradient norm and, with `digest_every` in the run's
    configuration, digests of state and data. Two runs of the same configuration are to agree bit for bit if they have
    the same layout, kind of device, threads and PyTorch, or layouts that differ in the number of data-parallel
    processes alone. Other layouts (tensor, context, expert and pipeline parallelism) form sums in other orders: they
    see the same data and agree to rounding, which grows from step to step; --within says how much of it is allowed.
    Which case it is, is said. The exit status is 0 if everything agrees and 1 if something does not.

    A first difference in the data digest means other data; in the loss, another state or forward pass; in the gradient
    norm, another backward pass; in the state digest alone, another update.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory."""
    against: Annotated[Path | None, tyro.conf.arg(metavar="OTHER")] = None
    """Another run directory."""
    within: float = 0.0
    """Relative distance of losses and gradient norms that still counts as agreement; 0 compares bits. Above 0, digests
    of the state are not compared."""
    replay: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Restore the newest checkpoint that has recorded steps behind it, take at most N steps again, here (alone or under
    torchrun), and compare with what was recorded. The run directory is only read."""


def run(argv: list[str]) -> int:
    """Check, compare, and return the verdict as the exit status."""
    args = parse(Verify, argv, "verify")
    if args.within < 0 or args.replay < 0:
        raise UsageError("--within and --replay must not be negative")
    from homegrown.train.verify import read_story

    story = read_story(args.run)
    # Under a launcher all processes replay, and the first one speaks.
    speaks = os.environ.get("RANK", "0") == "0"
    agreed = not speaks or _say_own(story)
    if args.against is not None and speaks:
        agreed &= _say_against(story, read_story(args.against), args.within)
    if args.replay:
        from homegrown.train.replay import replay

        again = replay(story, args.replay)
        agreed &= again is None or _say_against(again, story, args.within)
    return 0 if agreed else 1


def _say_own(story: Story) -> bool:
    steps = f"steps {min(story.steps)} to {max(story.steps)}" if story.steps else "no steps"
    print(f"{story.path}: {story.records} records, the chain is whole; {steps}, {story.digests} with digests")
    if not story.again:
        return True
    span = f"{len(story.again)} steps were done again after a resume"
    if not story.differently:
        print(f"{story.path}: {span}, with the same bits")
        return True
    print(f"{story.path}: {span}, and came out otherwise; first {story.differently[0]}")
    return False


def _say_against(one: Story, other: Story, within: float) -> bool:
    from homegrown.train.verify import compare, expectation

    bitwise, why = expectation(one, other)
    print(f"{one.path} [{one.layout}] against {other.path} [{other.layout}]: {why}")
    result = compare(one, other, within)
    counts = ", ".join(f"{count} {quantity}" for quantity, count in result.compared.items() if count)
    how = "bit for bit" if not within else f"within {within:g}"
    if result.first is None:
        print(f"{len(result.steps)} steps agree {how} ({counts})")
        return True
    distance, step, quantity = result.largest
    print(f"first difference after {result.agreed} steps that agree {how}: {result.first}")
    print(f"largest relative distance: {distance:.2e} ({quantity} of step {step})")
    if not bitwise and not within:
        print("bits were not expected to agree; --within 1e-4 would compare to rounding")
    return False

"""Steps of a run taken again, to see whether they come out the same."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homegrown.config import CheckConfig, TrainConfig, build, read_toml, to_table
from homegrown.parallel.collectives import gather_objects
from homegrown.parallel.groups import Group
from homegrown.parallel.world import World, join, leave
from homegrown.train.checkpoint import Checkpoints, directory, saved_steps
from homegrown.train.digest import digest, rows_digest
from homegrown.train.environment import environment
from homegrown.train.run import Workbench
from homegrown.train.verify import Story, VerifyError


def replay(recorded: Story, steps: int, world: World | None = None) -> Story | None:
    """Restore the newest checkpoint of a run that has recorded steps behind it, and take some of these again.

    The run directory is only read; its checkpoint is linked into a temporary directory beside it. Collective: under a
    launcher all processes call this.

    Args:
        recorded: the run.
        steps: how many at most.
        world: as for `Workbench`.

    Returns:
        What happened now, on the first process; `None` on the others.

    Raises:
        VerifyError: no checkpoint has recorded steps behind it.
        CheckpointError: the checkpoint is damaged.
    """
    saved = [step for step in saved_steps(recorded.path / "checkpoints") if step + 1 in recorded.steps]
    if not saved:
        raise VerifyError(f"{recorded.path}: no checkpoint with recorded steps behind it is left to begin from")
    config = build(TrainConfig, read_toml(recorded.path / "config.toml"), str(recorded.path / "config.toml"))
    # A replay is a check itself; and what it finds is to be told, not to end it.
    config = dataclasses.replace(config, check=CheckConfig())
    world = join(config.device, config.parallel.timeout_s) if world is None else world
    try:
        bench = Workbench(config, world)
        with _linked(recorded.path, saved[-1], bench.groups["world"]) as root:
            checkpoints = Checkpoints(root, keep=1, group=bench.groups["saving"])
            loaded = checkpoints.load(bench.stepper.wanted())
            checkpoints.close()
        if loaded.step is None:
            raise VerifyError("; ".join(loaded.complaints))
        bench.stepper.loaded()
        last = min(loaded.step + steps, max(recorded.steps))
        story = Story(Path(f"replay of {recorded.path}"), opening=_opening(bench))
        for number in range(loaded.step + 1, last + 1):
            result = bench.stepper.step(number, bench.batch(number - 1))
            story.steps[number] = {
                "data digest": rows_digest(bench, number - 1),
                "loss": float(result.terms["total"]).hex(),
                "grad norm": float(result.grad_norm).hex(),
                "skipped": bool(result.keep == 0),
            }
            if "state digest" in recorded.steps.get(number, {}):
                story.steps[number]["state digest"] = digest(bench.stepper.owned(), bench.groups["world"])
        return story if world.rank == 0 else None
    finally:
        leave()


def _opening(bench: Workbench) -> dict[str, object]:
    """What a run's record would begin with."""
    facts = environment(bench.device, bench.dtype)
    facts["layout"] = bench.layout.describe()
    return {"config": to_table(bench.config), "environment": facts, "data_fingerprint": bench.dataset.fingerprint}


@contextmanager
def _linked(run: Path, step: int, world: Group) -> Iterator[Path]:
    """A directory that holds nothing but a link to a checkpoint, on the file system of the run."""
    leads = world.rank == 0
    made = tempfile.mkdtemp(prefix=f".{run.name}-replay-", dir=run.absolute().parent) if leads else ""
    root = Path(gather_objects(made, world)[0])
    source = directory(run.absolute() / "checkpoints", step)
    try:
        if leads:
            (root / source.name).symlink_to(source, target_is_directory=True)
        yield root
    finally:
        if leads:
            shutil.rmtree(root, ignore_errors=True)

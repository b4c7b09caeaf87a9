"""`homegrown train`: pretraining from a config file and flags, or a dry run of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from homegrown.cli.common import DryRunFlags
    from homegrown.config import TrainConfig

SUMMARY = "pretrain a model as a TOML file and flags say; resumes by itself"

PIPED_WIDTH = 120
"""Columns of tables that go to a file or a pipe."""

ABOUT = """Pretrain a model. `homegrown train CONFIG.toml` reads a file; flags override it.

The run directory (--run) holds the record: config.toml, environment.json, ledger.jsonl, metrics.jsonl, checkpoints, and
at the end export/ (a Hugging Face directory) and report.html. Run the same command again to resume; SIGINT and SIGTERM
save and stop. Flags show as their default what would be used.

With --dry-run nothing is trained: `homegrown train longcat-2.0 --dry-run --world-size 49152 --memory 64GiB` builds the
job of a rank and says what it would hold, send and compute."""


def run(argv: list[str]) -> int:
    """Train, and finish the run with score, export and report."""
    from homegrown.cli.common import console, load_train_arguments

    config, flags = load_train_arguments(argv, about=ABOUT)
    if flags.dry_run:
        return _rehearse(config, flags)
    flags.refuse()
    from homegrown.train.pretrain import pretrain

    finished = pretrain(config, console)
    if finished.outcome.signal is not None:
        return 128 + finished.outcome.signal
    if finished.score is not None:
        print(f"held-out: {finished.score.bits_per_byte:.3f} bits per byte")
    print(f"model:    {finished.export}\nreport:   {finished.report}")
    return 0


def _rehearse(config: TrainConfig, flags: DryRunFlags) -> int:
    """Show what each rank would do, and write it down."""
    import json

    from rich.console import Console

    from homegrown.config.atomic import write_text
    from homegrown.train.dryrun.job import Rehearsal
    from homegrown.train.dryrun.report import plain, show
    from homegrown.train.dryrun.run import Request, dry_run
    from homegrown.train.dryrun.verdict import parse_bytes

    memory = parse_bytes(flags.memory) if flags.memory else 0
    request = Request(flags.world_size, flags.rank, memory, flags.check_ranks)
    out = Console()
    if not out.is_terminal:
        out = Console(width=PIPED_WIDTH)
    found: list[Rehearsal] = []

    def tell(done: Rehearsal) -> None:
        found.append(done)
        out.print(show(done, memory), soft_wrap=True)

    try:
        checked = dry_run(config, request, tell)
    finally:
        if flags.json is not None and found:
            write_text(flags.json, json.dumps([plain(done, listing=True) for done in found], indent=1))
    if checked:
        print(f"agree: ranks {', '.join(map(str, checked))}")
    return 0

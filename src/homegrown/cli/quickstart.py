"""`homegrown quickstart`: the whole story on this machine, in minutes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from homegrown.config import recipe_names

SUMMARY = "train a small model on this machine in minutes and look at what it learned"


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """Train a real LongCat-2.0-architecture model on the Python standard library's own source, on this machine.

    Builds a tokenizer and token shards, pretrains with live progress, scores held-out files in bits per byte beside
    gzip and xz, lets the model write, saves a Hugging Face directory, and draws a report page. Ends by saying what to
    do next."""

    out: Path = Path("runs/quickstart")
    """Where everything goes."""
    minutes: float = 5.0
    """Time to aim for, everything included. The number of steps follows from it and from the speed measured first, and
    is recorded, so that the run can be repeated."""
    steps: int = 0
    """Train exactly this many steps instead; the same steps give the same losses to the last bit."""
    preset: Annotated[str, tyro.conf.arg(help=f"Model and training settings: {', '.join(recipe_names())}.")] = (
        "quickstart"
    )
    again: Literal["resume", "anew"] = "resume"
    """When OUT already holds a run: continue it (or finish it again), or delete it and start anew."""
    seed: int = 0
    """Seeds weights and data order."""
    device: str = "auto"
    """`auto` takes the accelerator PyTorch finds, else the CPU."""


def run(argv: list[str]) -> int:
    """Run the story and print its last lines."""
    from homegrown.cli.common import console, parse

    arguments = parse(Quickstart, argv, "quickstart")
    from homegrown.cli.data import bars
    from homegrown.train.pretrain import pretrain
    from homegrown.train.quickstart import prepare

    with bars(console) as progress:
        story = prepare(
            out=arguments.out,
            minutes=arguments.minutes,
            steps=arguments.steps,
            preset=arguments.preset,
            anew=arguments.again == "anew",
            seed=arguments.seed,
            device=arguments.device,
            progress=progress,
        )
    for note in story.notes:
        console.print(note)
    finished = pretrain(story.config, console, times=story.times)
    if finished.outcome.signal is not None or finished.score is None:
        return 128 + (finished.outcome.signal or 0)
    out = arguments.out
    print(f"""
held-out: {finished.score.bits_per_byte:.3f} bits per byte
report:   {finished.report}   (open it in a browser)
model:    {finished.export}   (a Hugging Face directory)
record:   {out / "ledger.jsonl"}, {out / "metrics.jsonl"}
next:     homegrown generate {finished.export} --prompt "def "
          homegrown quickstart --again anew --minutes 20 --out runs/longer
          homegrown train {out / "config.toml"} --run runs/mine""")
    return 0

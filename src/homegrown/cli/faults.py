"""`homegrown faults`: a drill of what the supervisor is for."""

from __future__ import annotations

import random
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from homegrown.cli.common import console, parse
from homegrown.config import UsageError, to_toml
from homegrown.config.atomic import write_text
from homegrown.supervise.drill import Plan, drill, markdown
from homegrown.supervise.faults import FAULTS

SUMMARY = "inject faults into a tiny real run and print the table of what became of it"

ABOUT = f"""Kill, stop, slow down and cut off the workers of a tiny run, one fault after another, and compare each run
with an undisturbed one: when was the fault noticed, how many steps were done again, when did training go on, and are
all losses the same to the last bit. Faults: {", ".join(FAULTS)}."""

WORDS = ("def", "return", "self", "value", "for", "in", "range", "print", "if", "else:", "x = 1")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """A drill."""

    only: tuple[str, ...] = ()
    """Names of the faults to inject; all by default."""
    workers: int = 2
    """Workers of the run; for the faults of a network, half of them on each of two hosts."""
    steps: int = 40
    """Steps of the run."""
    out: Path = Path("runs/faults")
    """Directory of the runs and of the table, faults.md."""
    command: Annotated[
        str,
        tyro.conf.arg(help="The workers' command instead of `homegrown train`; {run} in it is the run directory."),
    ] = ""
    hang_after: float = 5.0
    """Seconds after which a rank hangs for which others wait, as for `homegrown supervise`."""
    stall_after: float = 60.0
    """The same outside of steps, and where nobody is known to wait."""
    selftest: str = ""
    """Command that a cordoned slot must pass; `homegrown doctor --quick` by default."""
    seed: int = 0
    """Decides the moments and the victims."""


def run(argv: list[str]) -> int:
    """Drill; 1 if a fault left its mark on a run."""
    arguments = parse(Faults, argv, "faults", about=ABOUT)
    unknown = sorted(set(arguments.only).difference(FAULTS))
    if unknown:
        raise UsageError(f"--only {' '.join(unknown)}: no such fault; there are {', '.join(FAULTS)}")
    out = arguments.out.absolute()
    config = None if arguments.command else prepare(out, arguments.steps)

    def program(directory: Path) -> Sequence[str]:
        if config is not None:
            return [str(config), "--run", str(directory)]
        return ["--command", arguments.command.replace("{run}", shlex.quote(str(directory))), "--run", str(directory)]

    flags = ["--hang-after", str(arguments.hang_after), "--stall-after", str(arguments.stall_after)]
    if arguments.selftest:
        flags += ["--selftest", arguments.selftest]
    plan = Plan(
        program=program, workers=arguments.workers, steps=arguments.steps, flags=flags, out=out, seed=arguments.seed
    )
    rows = drill(plan, arguments.only or list(FAULTS), lambda line: console.print(line, highlight=False))
    table = markdown(rows)
    write_text(out / "faults.md", table)
    print(table, end="")
    return int(any(row.same is False for row in rows))


def prepare(out: Path, steps: int) -> Path:
    """Write a tiny dataset and the configuration of a tiny model with every part of the architecture; its path."""
    from homegrown.cli import data
    from homegrown.config import (
        CheckpointConfig,
        DataConfig,
        EvalConfig,
        ModelConfig,
        MtpConfig,
        NgramConfig,
        SparseConfig,
        TrainConfig,
    )

    dataset, corpus = out / "data", out / "text"
    if not dataset.exists():
        rng = random.Random(0)
        for number in range(200):
            lines = [" ".join(rng.choices(WORDS, k=rng.randint(2, 6))) for _ in range(rng.randint(4, 30))]
            write_text(corpus / f"{number}.py", "\n    ".join(lines) + f"\n# {number}\n")
        data.run([str(corpus), "--out", str(dataset), "--vocab-size", "300"])
    config = TrainConfig(
        run=out / "run", steps=steps, device="cpu", precision="float32", threads=1,
        model=ModelConfig(
            vocab_size=320, hidden_size=64, num_layers=2, num_attention_heads=2, q_lora_rank=32, kv_lora_rank=32,
            qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, ffn_hidden_size=96, expert_ffn_hidden_size=32,
            n_routed_experts=8, zero_expert_num=4, moe_topk=3, max_position_embeddings=256,
            ngram=NgramConfig(order=3, splits=2, ratio=3.1),
            sparse=SparseConfig(topk=12, heads=4, head_dim=8, init_tokens=1, local_tokens=8),
            mtp=MtpConfig(layers=1, steps=2),
        ),
        data=DataConfig(path=dataset, seq_len=32, global_batch=8, micro_batch=2),
        checkpoint=CheckpointConfig(every_steps=5, every_minutes=0),
        eval=EvalConfig(every_steps=0, sample_every_steps=0),
    )  # fmt: skip
    path = out / "run.toml"
    write_text(path, to_toml(config))
    return path

"""`homegrown train`: pretraining from a config file and flags."""

from __future__ import annotations

SUMMARY = "pretrain a model as a TOML file and flags say; resumes by itself"

ABOUT = """Pretrain a model. `homegrown train CONFIG.toml` reads a file; flags override it.

The run directory (--run) holds the record: config.toml, environment.json, ledger.jsonl, metrics.jsonl, checkpoints, and
at the end export/ (a Hugging Face directory) and report.html. Run the same command again to resume; SIGINT and SIGTERM
save and stop. Flags show as their default what would be used."""


def run(argv: list[str]) -> int:
    """Train, and finish the run with score, export and report."""
    from homegrown.cli.common import console, load_train_config

    config = load_train_config(argv, about=ABOUT)
    from homegrown.train.pretrain import pretrain

    finished = pretrain(config, console)
    if finished.outcome.signal is not None:
        return 128 + finished.outcome.signal
    if finished.score is not None:
        print(f"held-out: {finished.score.bits_per_byte:.3f} bits per byte")
    print(f"model:    {finished.export}\nreport:   {finished.report}")
    return 0

"""`homegrown plan --from-run RUN`: the next run on this machine, predicted from a measured one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from homegrown.config import ConfigError, TrainConfig, recipe_names


@dataclass(frozen=True, kw_only=True)
class FromRun:
    """Calibrate on a finished or running training run of this project, and predict another on the same machine: time of
    its steps and of all of them, tokens/s, memory, energy, each with an 80 % interval.

    Without other flags it predicts the run itself again."""

    from_run: Path
    """The run directory that was measured."""
    config: str = ""
    """The run that is predicted: a TOML file or a recipe, as for `homegrown train`; else the measured one."""
    sequence: int = 0
    """Its tokens a sequence; 0 leaves what the config says."""
    batch: int = 0
    """Its sequences a step."""
    micro_batch: int = 0
    """Its sequences a forward pass."""
    steps: int = 0
    """Its optimizer steps."""
    json: Path | None = None
    """Write calibration and prediction to this file, in SI units."""


def run(argv: list[str]) -> int:
    """Calibrate, predict, show."""
    from homegrown.cli.common import parse

    arguments = parse(FromRun, argv, "plan")
    for name in ("sequence", "batch", "micro_batch", "steps"):
        if getattr(arguments, name) < 0:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: must be at least 1")
    import json

    from homegrown.config.atomic import write_text
    from homegrown.plan.calibrate import calibrate, changed, forecast
    from homegrown.plan.calibrate_text import lines, record

    calibration = calibrate(arguments.from_run)
    config = _config(arguments.config) if arguments.config else calibration.run.config
    config = changed(
        replace(config, precision=calibration.run.config.precision),
        sequence=arguments.sequence,
        batch=arguments.batch,
        micro_batch=arguments.micro_batch,
        steps=arguments.steps,
    )
    predicted = forecast(calibration, config)
    print("\n".join(lines(predicted)))
    if arguments.json is not None:
        write_text(arguments.json, json.dumps(record(predicted), indent=1) + "\n")
        print(f"wrote {arguments.json}")
    return 0


def _config(name: str) -> TrainConfig:
    from homegrown.cli.common import load_train_config

    if not Path(name).exists() and name not in recipe_names():
        raise ConfigError(f"--config {name}: no such file, and no such recipe; there are: {', '.join(recipe_names())}")
    return load_train_config([name], "plan")

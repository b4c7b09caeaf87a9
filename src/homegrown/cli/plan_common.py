"""What parts of `homegrown plan` share: a model by whatever names it, and progress after two seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homegrown.config import ConfigError, ModelConfig, build, overlay, preset_table, read_toml

if TYPE_CHECKING:
    from homegrown.plan.catalogue import Catalogue
    from homegrown.plan.facts import Shape

PATIENCE = 2.0
"""Seconds before a progress bar appears."""


def shape_called(name: str, catalogue: Catalogue) -> Shape:
    """A model by name or file: a preset, a model of the data, a TOML file (of a model, or a run's), a config.json of
    the family or a directory with one.

    Raises:
        ConfigError: there is no such model or file, or the file is not what it should be.
    """
    from homegrown.plan.reading import did_you_mean
    from homegrown.plan.shapes import preset_shape, preset_shape_names, shape_of

    path = Path(name)
    if path.suffix in (".toml", ".json") or path.exists():
        named = path if path.is_dir() else path.with_suffix("") if path.suffix == ".toml" else path.parent
        return shape_of(_config(path), name=named.resolve().name)
    if known := _spelt(name, preset_shape_names()):
        return preset_shape(known)
    try:
        return catalogue.shape(name)
    except ConfigError:
        presets, published = preset_shape_names(), sorted(catalogue.models.things)
        raise ConfigError(
            f"no model {name!r}{did_you_mean(name, [*presets, *published])}; presets: {', '.join(presets)}; published "
            f"models: {', '.join(published)}; or the path of a config file"
        ) from None


@contextmanager
def patient_bar() -> Iterator[Callable[[str, float], None]]:
    """A progress bar that appears when work takes longer than it takes to wonder; takes a label and a share."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from homegrown.cli.common import console

    begun = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TaskProgressColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True)
    task = progress.add_task("", total=1.0)

    def tick(label: str, share: float) -> None:
        progress.update(task, description=label, completed=share)
        if not progress.live.is_started and time.monotonic() - begun > PATIENCE:
            progress.start()

    try:
        yield tick
    finally:
        if progress.live.is_started:  # one that never was would leave an empty line
            progress.stop()


def _spelt(name: str, names: list[str]) -> str:
    """The one of some names that is meant; case and punctuation do not matter."""
    from homegrown.plan.catalogue import plain

    return next((known for known in names if plain(known) == plain(name)), "")


def _config(path: Path) -> ModelConfig:
    if path.is_dir():
        path /= "config.json"
    if not path.exists():
        raise ConfigError(f"{path}: no such file")
    if path.suffix == ".json":
        from homegrown.hub.published import parse_config

        return parse_config(_json(path), str(path))
    table = read_toml(path)
    model = table.get("model", table)
    if not isinstance(model, dict):
        raise ConfigError(f"{path}: 'model' must be a table, not {model!r}")
    own = {key: value for key, value in model.items() if key != "preset"}
    preset = model.get("preset")
    return build(ModelConfig, overlay(preset_table(str(preset)), own) if preset else own, str(path))


def _json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: must hold an object, not {type(table).__name__}")
    return table

"""TOML in and out of the config dataclasses: typed, strict, with hints."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import typing
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import tomli_w

from homegrown.config.errors import ConfigError
from homegrown.config.model import ModelConfig
from homegrown.config.train import TrainConfig

T = TypeVar("T")


def preset_names() -> list[str]:
    """Names of the model presets that ship with the package."""
    folder = resources.files("homegrown.config") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_preset(name: str) -> ModelConfig:
    """The model preset `name`.

    Raises:
        ConfigError: there is no such preset; the message lists those there are.
    """
    return build(ModelConfig, preset_table(name), where=f"preset {name}")


def preset_table(name: str) -> dict[str, Any]:
    """The raw TOML table of a preset, to be overlaid with a run's own keys."""
    names = preset_names()
    if name not in names:
        hint = _did_you_mean(name, names)
        raise ConfigError(f"no model preset {name!r}{hint}; there are: {', '.join(names)}")
    return tomllib.loads((resources.files("homegrown.config") / "presets" / f"{name}.toml").read_text("utf-8"))


def recipe_names() -> list[str]:
    """Names of the training recipes that ship with the package."""
    folder = resources.files("homegrown.config") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def recipe_table(name: str) -> dict[str, Any]:
    """The training recipe `name` as a config file's table: it starts from the model preset of the same name.

    Raises:
        ConfigError: there is no such recipe; the message lists those there are.
    """
    names = recipe_names()
    if name not in names:
        raise ConfigError(f"no recipe {name!r}{_did_you_mean(name, names)}; there are: {', '.join(names)}")
    table = tomllib.loads((resources.files("homegrown.config") / "recipes" / f"{name}.toml").read_text("utf-8"))
    return overlay({"model": {"preset": name}}, table)


def load_recipe(name: str) -> TrainConfig:
    """The training recipe `name`: a run's settings for the model preset of the same name.

    Raises:
        ConfigError: there is no such recipe; the message lists those there are.
    """
    table = recipe_table(name)
    model = {key: value for key, value in table["model"].items() if key != "preset"}
    return build(TrainConfig, {**table, "model": overlay(preset_table(name), model)}, where=f"recipe {name}")


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; `ConfigError` names the file and the line where it is not TOML."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def build(kind: type[T], table: dict[str, Any], where: str) -> T:
    """Make a config dataclass of `kind` from a TOML table.

    Args:
        kind: the dataclass.
        table: keys and values as TOML gave them.
        where: file or preset, for error messages.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type, or an impossible value.
    """
    _refuse_unknown(kind, table, where, prefix="")
    try:
        return msgspec.convert(table, kind, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}".replace("`$.", "`")) from None


def overlay(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, table by table; neither argument is modified."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = overlay(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def to_table(config: Any) -> dict[str, Any]:
    """A config dataclass as nested plain tables, every default spelled out (`None` values left out)."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if item is not None}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def to_toml(config: Any) -> str:
    """A config dataclass as TOML text, every default spelled out."""
    return tomli_w.dumps(to_table(config))


def _path(kind: type, value: Any) -> Any:
    # TOML has no paths: they are written as strings. Every other type msgspec converts itself.
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")


def _refuse_unknown(kind: Any, table: dict[str, Any], where: str, prefix: str) -> None:
    hints = typing.get_type_hints(kind)
    known = [item.name for item in dataclasses.fields(kind)]
    for key, value in table.items():
        if key not in known:
            hint = _did_you_mean(key, known)
            raise ConfigError(f"{where}: unknown key {prefix + key!r}{hint}; known here: {', '.join(known)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: {prefix + key!r} must be a table, not {value!r}")
            _refuse_unknown(hints[key], value, where, prefix=f"{prefix}{key}.")


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""

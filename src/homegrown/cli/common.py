"""What commands share: arguments from dataclasses, a console for progress, a run's config from a file and flags."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from homegrown.config import (
    ConfigError,
    TrainConfig,
    UsageError,
    build,
    overlay,
    preset_names,
    preset_table,
    read_toml,
    recipe_names,
    recipe_table,
)

T = TypeVar("T")

console = Console(stderr=True)
"""For progress and tables; results go to stdout, so that they can be piped."""

_PRESET_FLAG = "--model.preset"


def parse(kind: type[T], argv: Sequence[str], command: str, *, default: T | None = None, about: str = "") -> T:
    """Arguments of a command, as a dataclass.

    Fields are flags (`Positional` ones are positions); docstrings of fields are their help.

    Args:
        kind: the dataclass.
        argv: arguments after the command's name.
        command: its name, for the help page.
        default: values that `argv` changes; the dataclass's own defaults if not given.
        about: opens the help page; the docstring of `kind` if not given.

    Raises:
        SystemExit: after help (0), or a mistake in `argv` that was explained on stderr (2).
    """
    given: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, args=list(argv), prog=f"homegrown {command}", description=about or None, **given)


def load_train_config(argv: Sequence[str], command: str = "train", *, about: str = "") -> TrainConfig:
    """The config of a run: the file that `argv` begins with, if it does, overridden by the flags that follow.

    `homegrown train run.toml --steps 10 --model.moe-topk 4`: later in this list wins: the dataclasses' defaults, the
    preset that the file's `[model] preset = "..."` or the flag `--model.preset` names (the flag wins), the file's other
    keys, the other flags. In place of a file stands the name of a recipe, if there is no such file.

    Args:
        argv: arguments after the command's name.
        command: its name, for the help page.
        about: opens the help page, which shows the resulting values as defaults.

    Raises:
        ConfigError: the file or its preset does not exist, or they hold an unknown key or an impossible value.
        UsageError: the file does not come first.
        SystemExit: after help (0), or a mistake in the flags that was explained on stderr (2).
    """
    return load_train_arguments(argv, command, about=about)[0]


def load_train_arguments(
    argv: Sequence[str], command: str = "train", *, about: str = ""
) -> tuple[TrainConfig, DryRunFlags]:
    """The same, and what the flags of a dry run say."""
    file = Path(argv[0]) if argv and not argv[0].startswith("-") else None
    table = _table(file) if file else {}
    where = str(file) if file else _PRESET_FLAG
    config = build(TrainConfig, _with_preset(table, _preset_flag(argv), where), where)
    arguments = parse(
        _TrainArguments,
        argv[1:] if file else argv,
        command,
        default=_TrainArguments(train=config),
        about=about or "Pretrain a model. Flags override the file; what is shown as default is what would be used.",
    )
    if arguments.config is not None:
        example = f"homegrown {command} CONFIG.toml --steps 10"
        raise UsageError(f"{arguments.config}: only one config file is read, and it comes first, as in `{example}`")
    return arguments.train, arguments.dry


def _table(file: Path) -> dict[str, Any]:
    return recipe_table(str(file)) if not file.exists() and str(file) in recipe_names() else read_toml(file)


@contextmanager
def bar(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar that moves on and names what runs next whenever the yielded function is called."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)

        def tick(label: str) -> None:
            started = progress.tasks[task].description != ""
            progress.update(task, description=label, advance=1 if started else 0)

        yield tick


@dataclass(frozen=True, kw_only=True)
class DryRunFlags:
    """Flags of `homegrown train --dry-run`."""

    dry_run: bool = False
    """Do not train: build the job of one rank as it would run, on tensors without values and with nobody else, take one
    step, and report its groups, memory, traffic and work. Reads no data and writes no run directory."""
    world_size: int = 0
    """Dry run: number of processes."""
    rank: tuple[int, ...] = ()
    """Dry run: ranks to look at; the first and the last if none is named."""
    memory: str = ""
    """Dry run: memory of a device, such as 64GiB; a rank that needs more is refused."""
    check_ranks: bool = False
    """Dry run: look at ranks beside those as well, one in each of their groups and stages, and check that all of them
    agree on what they send one another. Takes as long for each."""
    json: Path | None = None
    """Dry run: write everything that was found to this file, every message included."""

    def refuse(self) -> None:
        """Raise `UsageError` if there are flags of a dry run, and there is none."""
        given = [name for name, default in vars(DryRunFlags()).items() if getattr(self, name) != default]
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UsageError(f"{flags}: only for a dry run (--dry-run)")


@dataclass(frozen=True, kw_only=True)
class _TrainArguments:
    config: Annotated[
        Path | None,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="[CONFIG.toml]",
            help="File with keys as the flags below are named: `steps = 10`, `[model]`, `moe_topk = 4`; or a recipe: "
            f"{', '.join(recipe_names())}.",
            help_behavior_hint="(optional)",
        ),
    ] = None  # taken from the arguments before the flags are read; here for help, and to notice one that comes late
    preset: Annotated[
        str,
        tyro.conf.arg(
            name=_PRESET_FLAG.removeprefix("--"),
            metavar="NAME",
            help=f"Start from a model preset: {', '.join(preset_names())}.",
            help_behavior_hint="(default: the file's, else none)",
        ),
    ] = ""  # read by _preset_flag before the other flags' defaults are known; here for help and checking
    dry: Annotated[DryRunFlags, tyro.conf.arg(name="")] = DryRunFlags()
    train: Annotated[TrainConfig, tyro.conf.arg(name="")]


def _preset_flag(argv: Sequence[str]) -> str:
    """Value of the last `--model.preset NAME` or `--model.preset=NAME`; empty without one."""
    name = ""
    for flag, following in pairwise([*argv, ""]):
        key, equals, value = flag.partition("=")
        if key == _PRESET_FLAG:
            name = value if equals else following
    return name


def _with_preset(table: dict[str, Any], flag: str, where: str) -> dict[str, Any]:
    """`table` with its model keys laid over the preset they start from."""
    model = table.get("model", {})
    if not isinstance(model, dict):
        raise ConfigError(f"{where}: 'model' must be a table, not {model!r}")
    own = {key: value for key, value in model.items() if key != "preset"}
    name = flag or model.get("preset", "")
    if not isinstance(name, str):
        raise ConfigError(f"{where}: 'model.preset' must be the name of a preset, not {name!r}")
    if not name:
        return {**table, "model": own}
    try:
        return {**table, "model": overlay(preset_table(name), own)}
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None

"""The `homegrown` command: lists the commands and hands over to one of them.

Nothing here imports torch, and help imports no command: the table below says what there is.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from homegrown import __version__
from homegrown.config.errors import UsageError, UserError

_INTERRUPTED = 128 + 2  # the shell's convention for a process ended by SIGINT
_BROKEN_PIPE = 128 + 13  # by SIGPIPE


@dataclass(frozen=True)
class Command:
    """A command: what it is called, the module whose `run(argv) -> int` does it, and its `SUMMARY`."""

    name: str
    module: str
    summary: str


Commands = Mapping[str, Sequence[Command]]
"""Commands under the headings of the help page."""

COMMANDS: Commands = {
    "start here": [
        Command(
            "quickstart",
            "homegrown.cli.quickstart",
            "train a small model on this machine in minutes and look at what it learned",
        ),
    ],
    "train": [
        Command(
            "tokenizer",
            "homegrown.cli.tokenizer",
            "train a byte-level BPE tokenizer with the family's special tokens and chat template",
        ),
        Command(
            "data",
            "homegrown.cli.data",
            "turn text into token shards that training reads, with a held-out part and a fingerprint",
        ),
        Command("train", "homegrown.cli.train", "pretrain a model as a TOML file and flags say; resumes by itself"),
        Command(
            "supervise",
            "homegrown.cli.supervise",
            "train with several workers and keep the run going when they die, hang, slow down or compute wrongly",
        ),
        Command(
            "faults",
            "homegrown.cli.faults",
            "inject faults into a tiny real run and print the table of what became of it",
        ),
        Command(
            "report",
            "homegrown.cli.report",
            "draw the page of a run: plots, samples, compute per token, speed, energy, record",
        ),
        Command(
            "verify",
            "homegrown.cli.verify",
            "check a run's record, compare two runs bit for bit, or do steps of a run again and compare",
        ),
        Command(
            "bench",
            "homegrown.cli.bench",
            "measure training, inference and servers, against this machine's limits and against transformers",
        ),
        Command(
            "doctor",
            "homegrown.cli.doctor",
            "check that this machine can train: devices, kernels, collectives, and how fast they are",
        ),
    ],
    "models": [
        Command("generate", "homegrown.cli.generate", "let a model continue a text, as it comes"),
        Command("chat", "homegrown.cli.chat", "talk with a model in the terminal"),
        Command(
            "serve",
            "homegrown.cli.serve",
            "serve a model over the OpenAI and Anthropic APIs, with a chat page",
        ),
        Command(
            "export",
            "homegrown.cli.export",
            "write a Hugging Face directory in a published layout, dtype and file size",
        ),
        Command(
            "import",
            "homegrown.cli.import_",
            "check a LongCat-family directory from elsewhere and rewrite it in standard form",
        ),
    ],
    "plan and audit": [
        Command(
            "plan",
            "homegrown.cli.plan",
            "plan a run before it is paid for: layout, step time, memory, failures, days, energy, cost, with intervals",
        ),
        Command(
            "audit",
            "homegrown.cli.audit",
            "check a claim about a training run: what it implies, what contradicts what, what would settle it",
        ),
    ],
}


def main(argv: Sequence[str] | None = None, commands: Commands = COMMANDS) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit status.

    A `UserError` becomes one sentence on stderr and its own exit status, and so does an `OSError` that names a file
    (status 1); with HOMEGROWN_DEBUG=1 they are raised instead. Ctrl-C ends with 130, a closed pipe with 141. Anything
    else is a bug and keeps its traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments in (["-h"], ["--help"], ["help"]):
        return _guarded("homegrown", lambda: _print(_help(commands)))
    if arguments in (["-V"], ["--version"]):
        return _guarded("homegrown", lambda: _print(f"homegrown {__version__}"))
    if arguments[0] == "help":
        arguments = [*arguments[1:], "--help"]
    name, *rest = arguments
    return _guarded(f"homegrown {name}", lambda: _dispatch(name, rest, commands))


def _dispatch(name: str, argv: list[str], commands: Commands) -> int:
    known = {command.name: command for group in commands.values() for command in group}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else "`homegrown --help` lists the commands"
        raise UsageError(f"no such {'option' if name.startswith('-') else 'command'}; {hint}")
    return importlib.import_module(known[name].module).run(argv)


def _guarded(who: str, work: Callable[[], int]) -> int:
    """Do `work`; turn the ways in which it may end early into an exit status."""
    try:
        status = work()
        sys.stdout.flush()  # here, so that a pipe that closed too early is noticed here
    except UserError as error:
        if _debugging():
            raise
        _complain(f"{who}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _complain(f"{who}: interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough (`homegrown ... | head`); Python would complain once more when it closes stdout.
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return _BROKEN_PIPE
    except OSError as error:  # one that names a file is the file system's: no permission, no space, not there
        if _debugging() or error.filename is None:
            raise
        _complain(f"{who}: {error.filename}: {error.strerror}")
        return 1
    except SystemExit as end:  # argument parsers end so, after help (0) and mistakes (2)
        if isinstance(end.code, str):
            _complain(f"{who}: {end.code}")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return status


def _debugging() -> bool:
    return os.environ.get("HOMEGROWN_DEBUG") == "1"


def _complain(message: str) -> None:
    print(_paint(message, "31", sys.stderr.isatty()), file=sys.stderr)


def _print(text: str) -> int:
    print(text)
    return 0


def _help(commands: Commands) -> str:
    bold = sys.stdout.isatty()
    width = max((len(command.name) for group in commands.values() for command in group), default=0)
    lines = [
        "usage: homegrown COMMAND [ARGUMENTS]",
        "",
        "Train, publish and run LongCat-2.0-class language models on any accelerator PyTorch drives.",
    ]
    for heading, group in commands.items():
        lines += ["", _paint(heading, "1", bold)]
        lines += [f"  {command.name:<{width}}  {command.summary}" for command in group]
    lines += [
        "",
        "`homegrown COMMAND --help` explains a command; `homegrown --version` prints the version.",
        "HOMEGROWN_DEBUG=1 shows a traceback with every error.",
    ]
    return "\n".join(lines)


def _paint(text: str, code: str, terminal: bool) -> str:
    return f"\033[{code}m{text}\033[0m" if terminal and "NO_COLOR" not in os.environ else text


if __name__ == "__main__":
    sys.exit(main())

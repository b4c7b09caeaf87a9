"""`homegrown generate`: a model continues a text."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from homegrown.cli.common import console, parse
from homegrown.cli.writing import Stream, Writing, dim, load_writer, sampling

SUMMARY = "let a model continue a text, as it comes"


@dataclass(frozen=True, kw_only=True)
class Generate(Writing):
    """Let a model continue a text.

    The continuation goes to stdout as it comes, without the prompt unless stdout is a terminal; speed goes to stderr.

    homegrown generate runs/quickstart/export --prompt "def "

    cat start.py | homegrown generate DIR --temperature 0 --speculate --stop "class "
    """

    prompt: Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="(default: read from stdin)")] = None
    """The text to continue, taken as it is."""


def run(argv: list[str]) -> int:
    """Run the command; the exit status."""
    args = parse(Generate, argv, "generate")
    prompt = _stdin() if args.prompt is None else args.prompt
    model, tokenizer = load_writer(args)
    from homegrown.generate import generate

    stream = Stream(generate(model, tokenizer, prompt, sampling(args), speculative=args.speculate))
    if sys.stdout.isatty():
        print(dim(prompt), end="", flush=True)
    try:
        stream.run()
    finally:
        console.print(stream.summary(), style="dim", highlight=False, markup=False, soft_wrap=True)
    return 0


def _stdin() -> str:
    if sys.stdin.isatty():
        console.print("Text to continue; Ctrl-D on a line of its own ends it:", style="dim")
    return sys.stdin.read()

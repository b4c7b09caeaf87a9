"""What commands that let a model write share: arguments, loading, streaming to the terminal, speed."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from homegrown.cli.common import console

if TYPE_CHECKING:  # torch comes after the arguments are known to be right: help and mistakes come at once
    from homegrown.generate import Generation, SamplingConfig
    from homegrown.model import Longcat
    from homegrown.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Which model writes, and how."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Directory with config.json, safetensors files and a tokenizer, in any published layout of the LongCat family."""
    temperature: float = 0.7
    """0 is greedy: always the likeliest token. 1 is the model's own distribution."""
    top_p: float = 0.95
    """Draw from the fewest likeliest tokens that together have this probability; 1 keeps all."""
    top_k: int = 0
    """Draw from this many likeliest tokens; 0 keeps all."""
    min_p: float = 0.0
    """Draw from tokens at least this fraction as likely as the likeliest; 0 keeps all."""
    seed: int = 0
    """The same seed, settings and text before give the same text."""
    max_tokens: int = 512
    """Tokens of a text at most."""
    stop: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT")] = ()
    """End before this text; may be given several times."""
    speculate: bool = False
    """Let the model's draft head propose tokens that the model then checks several at a time. The text is exactly that
    of greedy decoding, in fewer passes that each cost more: faster if drafts are often right. Needs --temperature 0."""
    device: str = "auto"
    """`auto` takes the accelerator PyTorch finds, else the CPU."""
    dtype: Literal["stored", "float32", "bfloat16", "float16"] = "stored"
    """Of the weights in memory; the router is never narrowed."""
    threads: int = 0
    """CPU threads; 0 takes every core this process may use."""


def load_writer(args: Writing) -> tuple[Longcat, Tokenizer]:
    """The model and its tokenizer.

    Raises:
        UserError: the directory, its tokenizer or the device is not what it should be.
    """
    import torch

    from homegrown import device
    from homegrown.config import UsageError, UserError
    from homegrown.hub import load
    from homegrown.model.native import native_words

    if args.speculate and args.temperature > 0:
        raise UsageError("--speculate is for greedy decoding: add --temperature 0")
    sampling(args)  # reading a large model takes long, so refuse impossible settings before
    device.set_threads(args.threads)
    dtype = None if args.dtype == "stored" else getattr(torch, args.dtype)
    model, tokenizer = load(args.model, device.pick(args.device), dtype)
    if tokenizer is None:
        raise UserError(f"{args.model}: there is no tokenizer.json; put the one the model was trained with there")
    words = f"decoded rows: {native_words(model)}"
    console.print(words, style="dim", highlight=False, markup=False, soft_wrap=True)
    return model, tokenizer


def sampling(args: Writing, **changes: Any) -> SamplingConfig:
    """The arguments as the settings of one text; `changes` come first."""
    from homegrown.generate import SamplingConfig

    same = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "stop")
    return SamplingConfig(**({name: getattr(args, name) for name in same} | changes))


class Stream:
    """Writes a generation to stdout as it comes, and keeps time.

    Attributes:
        text: what has been written.
        finish: why the text ended; "interrupted" until it says.
    """

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._begun = self._first = self._last = time.perf_counter()
        self.text = ""
        self.finish = "interrupted"

    def run(self) -> None:
        """Write to the end. A text that was interrupted is ended by a line break too."""
        try:
            for piece in self._generation:
                self._last = time.perf_counter()
                if len(self._generation.tokens) == 1:
                    self._first = self._last
                self.text += piece.text
                self.finish = piece.finish or self.finish
                sys.stdout.write(piece.text)
                sys.stdout.flush()
        finally:
            if not self.text.endswith("\n"):
                sys.stdout.write("\n")
            sys.stdout.flush()

    def summary(self) -> str:
        """Tokens, speed, how drafting went, and why the text ended, in one line."""
        count, prompt = len(self._generation.tokens), len(self._generation.prompt)
        parts = [f"{count} tokens"]
        if count > 1:
            parts.append(f"{(count - 1) / (self._last - self._first):.1f} tokens/s")
        parts.append(f"prompt of {prompt} tokens in {self._first - self._begun:.2f} s")
        drafting = self._generation.acceptance
        if drafting is not None and drafting.drafted:
            passes = drafting.passes.total()
            parts.append(
                f"{drafting.accepted} of {drafting.drafted} drafts accepted, {drafting.accepted / passes:.2f} a pass"
            )
        return "; ".join([*parts, f"ended by {self.finish}"])


def dim(text: str) -> str:
    """Text in a fainter colour, if stdout is a terminal that wants colours."""
    return f"\033[2m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text

"""A model for serving, its weights as they were asked for, and an account of what that does to size and predictions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from homegrown import ops
from homegrown.data.errors import CorpusError
from homegrown.device import describe
from homegrown.hub import load
from homegrown.hub.checkpoint import Checkpoint
from homegrown.hub.directory import TOKENIZER
from homegrown.model import Longcat
from homegrown.model.int8 import Footprint, footprints
from homegrown.serve.perplexity import SECONDS, STDLIB, Change, Sample, Score, sample_of, score
from homegrown.tokenizer import Tokenizer

Weights = Literal["stored", "int8"]
"""`stored` as they are on disk, or in the dtype asked for; `int8`, large matrices rounded to eight bits at load."""

CHECKED_BYTES = 1_000_000_000
"""Larger models are compared with their stored selves only where that is asked for: it means reading them twice."""
ROOM = 0.7
"""Share of a device's memory that the stored model may take to be loaded for comparison."""

PARTS = {
    "routed experts": r"layers\.\d+\.mlp\.experts\.",
    "attention": r"layers\.\d+\.self_attn\.\d\.",
    "dense feed-forward": r"layers\.\d+\.mlps\.",
    "n-gram tables": r"ngram_embeddings\.table",
    "word embedding": r"embed_tokens\.",
    "unembedding": r"lm_head\.",
    "draft head": r"mtp\.",
    "routers, norms, projections": r"",
}
"""A model's parts, and how names of their parameters begin; the first that fits."""


@dataclass(frozen=True)
class WeightsReport:
    """What became of a model's weights.

    Attributes:
        parts: sizes, by part of the model.
        dtype: of activations, and of what is not in eight bits.
        product: how eight-bit weights are multiplied, in words; empty where there are none.
        change: what rounding did to predictions, where it was measured.
        unmeasured: why it was not.
    """

    parts: dict[str, Footprint]
    dtype: torch.dtype
    product: str = ""
    change: Change | None = None
    unmeasured: str = ""

    @property
    def total(self) -> Footprint:
        """Of all parts."""
        return sum(self.parts.values(), start=Footprint())

    def lines(self) -> list[str]:
        """For people to read: a table, and sentences; nothing where all weights are as they were stored."""
        if not self.product:
            return []
        table = [f"{'weights':28}{'numbers':>10}{'in int8':>9}{_name(self.dtype):>11}{'served':>11}"]
        table += [_line(name, part) for name, part in [*self.parts.items(), ("all", self.total)]]
        change = str(self.change) if self.change else f"perplexity not measured: {self.unmeasured}"
        return [*table, f"int8 products: {self.product}", change]


def load_for_serving(
    directory: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    weights: Weights = "stored",
    check: str = "auto",
    say: Callable[[str], None] = lambda stage: None,
) -> tuple[Longcat, Tokenizer | None, WeightsReport]:
    """Load a model to serve.

    Args:
        directory: in any layout of the family.
        device: where it goes; None is PyTorch's default device.
        dtype: of weights and activations; None is the stored one, for int8 weights bfloat16.
        weights: whether large matrices are rounded to eight bits.
        check: compare rounded weights' predictions with the stored ones': on the text of a file or folder; on the
            standard library's sources where that is quick (`auto`); or not at all (`off`). The stored model is loaded,
            scored and let go before the rounded one is read.
        say: told each stage as it begins.

    Returns:
        The model, in evaluation mode; its tokenizer, or None; what became of the weights.

    Raises:
        HubError: the directory is not what it should be.
        UserError: `check` names no text.
    """
    folder = Path(directory)
    target = torch.get_default_device() if device is None else torch.device(device)
    if weights == "stored":
        say("reading weights")
        model, tokenizer = load(folder, target, dtype)
        return model.eval(), tokenizer, WeightsReport(_parts(model), model.dtype)
    before = _score_stored(folder, target, check, say)
    say("reading weights, rounding them to eight bits")
    model, tokenizer = load(folder, target, dtype, int8=True)
    product, parts = ops.int8_product_of(model.dtype, target), _parts(model.eval())
    if isinstance(before, str):
        return model, tokenizer, WeightsReport(parts, model.dtype, product, unmeasured=before)
    say("scoring text with the rounded weights")
    sample, stored = before
    change = Change(sample.name, stored, score(model, sample.first(stored.windows)))
    return model, tokenizer, WeightsReport(parts, model.dtype, product, change)


def _score_stored(
    folder: Path, device: torch.device, check: str, say: Callable[[str], None]
) -> tuple[Sample, Score] | str:
    """How well the model predicts as it is stored, and what; or why that is not found out."""
    if check == "off":
        return "not asked for"
    if not (folder / TOKENIZER).exists():
        return "there is no tokenizer to read text with"
    size, memory = _loaded_bytes(folder), describe(device).memory_bytes
    if memory and size > ROOM * memory:
        return f"the stored weights take {_size(size)}, too much of this device's {_size(memory)}"
    if check == "auto" and size > CHECKED_BYTES:
        return f"it takes reading all {_size(size)} of weights as they are stored first; name a text to have it done"
    try:
        sample = sample_of(STDLIB if check == "auto" else check, Tokenizer.from_dir(folder))
    except CorpusError as error:
        if check == "auto":
            return str(error)
        raise
    say("reading weights as they are stored, for comparison")
    model, _ = load(folder, device)
    say("scoring text with the stored weights")
    return sample, score(model.eval(), sample, SECONDS)


def _loaded_bytes(folder: Path) -> int:
    """What a directory's weights take in memory; eight-bit ones are widened to sixteen."""
    checkpoint = Checkpoint(folder)
    return sum(stored.size * (2 if stored.dtype.itemsize == 1 else 1) for stored in checkpoint.tensors.values())


def _parts(model: Longcat) -> dict[str, Footprint]:
    parts: dict[str, Footprint] = {}
    for name, size in footprints(model).items():
        part = next(part for part, beginning in PARTS.items() if re.match(beginning, name))
        parts[part] = parts.get(part, Footprint()) + size
    return {part: parts[part] for part in PARTS if part in parts}


def _line(name: str, part: Footprint) -> str:
    share = part.rounded / part.numbers if part.numbers else 0.0
    return f"{name:28}{part.numbers:>10,}{share:>9.0%}{_size(part.wide_bytes):>11}{_size(part.bytes):>11}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _size(count: int) -> str:
    """Bytes in the largest unit that leaves at least one."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"

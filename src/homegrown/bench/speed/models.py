"""Who is measured: our model in each precision, and the peer with the same weights in each of its modes."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import util
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from homegrown import device as devices
from homegrown import hub
from homegrown.bench.peer import PEER, build_peer, refuse_missing_peer
from homegrown.bench.serve.standin import LONGEST, SPARSE
from homegrown.bench.shapes import SHAPES, shape
from homegrown.bench.train import MismatchError
from homegrown.config import ModelConfig, UsageError, load_preset
from homegrown.model import Longcat
from homegrown.model.int8 import quantise
from homegrown.tokenizer import Tokenizer

Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TOLERANCE = 1e-2
"""‖a − b‖ / ‖b‖ of logits in float32: sums in another order give 1e-6, a router's near-tie up to a few 1e-3; another
function of the same size would give about 1.4."""


@dataclass(frozen=True)
class Subject:
    """What model is measured.

    Attributes:
        name: of its shape, or of its directory.
        model: in float32.
        trained: it comes from a directory and has something to say.
        tokenizer: the directory's, if it has one.
    """

    name: str
    model: Longcat
    trained: bool
    tokenizer: Tokenizer | None = None

    @property
    def config(self) -> ModelConfig:
        """Its architecture."""
        return self.model.config


def config_of(name: str, longest: int = 0) -> ModelConfig:
    """The architecture called `name`, for texts of at least `longest` tokens.

    Raises:
        ConfigError: there is no such shape.
    """
    if name == SPARSE:
        config = replace(load_preset("quickstart"), max_position_embeddings=LONGEST)
    else:
        config = SHAPES[name]().model if name in SHAPES else shape(name).model
    return replace(config, max_position_embeddings=max(config.max_position_embeddings, longest))


def subject(name: str, folder: Path | None, device: torch.device, longest: int, seed: int) -> Subject:
    """A random model of a shape, or the one in a directory, in float32."""
    if folder is not None:
        model, tokenizer = hub.load(folder, device, torch.float32)
        if model.config.max_position_embeddings < longest:
            raise UsageError(
                f"{folder}: the model reads {model.config.max_position_embeddings} tokens at most; {longest} were "
                "asked for, so choose shorter ones"
            )
        return Subject(folder.resolve().name, model.eval(), True, tokenizer)
    with device:
        model = Longcat(config_of(name, longest))
    model.init_weights(seed)
    return Subject(name, model.eval(), False)


def ours(model: Longcat, precisions: Sequence[Precision]) -> dict[str, Longcat]:
    """The model in each precision, by its name; `int8` has eight-bit weights beside activations in the faster dtype."""
    quick = devices.describe(model.device).features.bf16_fast
    narrow = torch.bfloat16 if quick else torch.float32
    make: dict[str, Callable[[], Longcat]] = {
        "float32": lambda: model,
        "bfloat16": lambda: copy.deepcopy(model).cast(torch.bfloat16),
        "int8": lambda: quantise(copy.deepcopy(model), narrow),
    }
    return {name: make[name]() for name in precisions}


def peers(model: Longcat, compiled: bool) -> dict[str, Callable[..., Any]]:
    """The peer in float32 and bfloat16, and compiled if that is asked for, by the name of the mode.

    Raises:
        UserError: it is not installed, or does not compute this architecture.
    """
    refuse_missing_peer()
    full = build_peer(model).eval()
    half = copy.deepcopy(full).to(torch.bfloat16)
    made: dict[str, Callable[..., Any]] = {"float32": full, "bfloat16": half}
    if compiled:
        made |= {f"{name}, compiled": torch.compile(item, dynamic=True) for name, item in made.items()}
    return made


def peer_dtype(mode: str) -> torch.dtype:
    """Of the peer's weights in a mode."""
    return torch.bfloat16 if mode.startswith("bfloat16") else torch.float32


def random_tokens(config: ModelConfig, batch: int, count: int, seed: int) -> Tensor:
    """int64 [B, S], uniform over the vocabulary without its first four, special, tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, config.vocab_size, (batch, count), generator=generator)


def difference(got: Tensor, wanted: Tensor) -> float:
    """‖a − b‖ / ‖b‖."""
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def require_agreement(found: float, case: str) -> None:
    """Raise `MismatchError` unless the peer's float32 logits are ours."""
    if not found <= TOLERANCE:
        raise MismatchError(
            f"{case}: the logits of {PEER} are {found:.3g} (relative) from ours on the same weights and tokens in "
            f"float32, more than {TOLERANCE}: they compute different functions, and are not compared"
        )


def paths_taken(models: dict[str, Longcat]) -> dict[str, str]:
    """How each precision's decoding steps are computed, in words, and what its activations are in."""
    return {f"decode {mode}": f"{native_words(model)}; activations {model.dtype}" for mode, model in models.items()}


def native_words(model: Longcat) -> str:
    """What `homegrown.model.native` says of a model, where this version has native decoding."""
    if util.find_spec("homegrown.model.native") is None:
        return "PyTorch's operators"
    words: str = importlib.import_module("homegrown.model.native").native_words(model)
    return words

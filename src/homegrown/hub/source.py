"""A directory that somebody wrote, opened: config, layout and weights, all checked."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from homegrown.config import ModelConfig
from homegrown.hub.checkpoint import Checkpoint, read_json
from homegrown.hub.errors import HubError, HubWarning
from homegrown.hub.layout import ARCHITECTURES, Layout, detect
from homegrown.hub.mapping import parts, unused
from homegrown.hub.published import CONFIG, architecture, parse_config
from homegrown.hub.weights import CheckpointWeights

GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Source:
    """An open directory; close it by `with`.

    Attributes:
        folder: where.
        config: the model.
        standard: the layout its architecture is published in.
        layout: the layout its tensors are in.
        checkpoint: its files.
        weights: its numbers.
    """

    folder: Path
    config: ModelConfig
    standard: Layout
    layout: Layout
    checkpoint: Checkpoint
    weights: CheckpointWeights

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exception: object) -> None:
        self.checkpoint.close()

    def generation(self) -> dict[str, Any] | None:
        """The content of `generation_config.json`, if there is one."""
        file = self.folder / GENERATION
        return read_json(file) if file.exists() else None


def open_source(folder: Path, keep_unused: bool = False) -> Source:
    """Open a directory and check every tensor's name, shape and dtype. No data is read.

    Args:
        folder: with config.json and safetensors files.
        keep_unused: as if the config said `mtp.keep_unused`.

    Raises:
        HubError: anything is not as it should be.
    """
    if not folder.is_dir():
        raise HubError(f"{folder}: no such directory")
    table = read_json(folder / CONFIG)
    config = parse_config(table, str(folder / CONFIG))
    checkpoint = Checkpoint(folder)
    config = _settle_mtp(config, checkpoint, keep_unused)
    standard = ARCHITECTURES[architecture(table, str(folder / CONFIG))]
    layout = detect(standard, checkpoint.tensors, config)
    block = _block(table, folder / CONFIG)
    weights = CheckpointWeights(checkpoint, list(parts(config, layout)), unused(config, layout), block)
    return Source(folder, config, standard, layout, checkpoint, weights)


def _settle_mtp(config: ModelConfig, checkpoint: Checkpoint, keep_unused: bool) -> ModelConfig:
    """Exports without the draft head keep saying in config.json that there is one."""
    if not config.mtp.layers:
        return config
    if not any(name.startswith(("model.mtp.", "mtp.")) for name in checkpoint.tensors):
        warnings.warn(
            f"{checkpoint.folder}: config.json declares a draft head (MTP), but its tensors are not among the files; "
            "loaded without it",
            HubWarning,
            stacklevel=2,
        )
        return replace(config, mtp=replace(config.mtp, layers=0))
    return replace(config, mtp=replace(config.mtp, keep_unused=config.mtp.keep_unused or keep_unused))


def _block(table: dict[str, Any], file: Path) -> tuple[int, int]:
    quantisation = table.get("quantization_config") or {}
    block = quantisation.get("weight_block_size") if isinstance(quantisation, dict) else quantisation
    match block or [128, 128]:
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return rows, columns
    raise HubError(f"{file}: quantization_config.weight_block_size is {block!r}; it must be [rows, columns]")

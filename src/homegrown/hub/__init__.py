"""Hugging Face directories in and out, streamed: every published layout of the LongCat family."""

from homegrown.hub.convert import convert
from homegrown.hub.directory import load, save
from homegrown.hub.errors import HubError, HubWarning
from homegrown.hub.layout import LAYOUTS, Layout, default_layout
from homegrown.hub.mapping import Part, parts, tensors
from homegrown.hub.published import parse_config, render_config
from homegrown.hub.rows import Rows, pieces_from_directory
from homegrown.hub.writer import SHARD_SIZE, parse_size

__all__ = [
    "LAYOUTS",
    "SHARD_SIZE",
    "HubError",
    "HubWarning",
    "Layout",
    "Part",
    "Rows",
    "convert",
    "default_layout",
    "load",
    "parse_config",
    "parse_size",
    "parts",
    "pieces_from_directory",
    "render_config",
    "save",
    "tensors",
]

"""The pictures in the docs are those that the code draws today."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import pytest

from homegrown.parallel.layout import Layout
from homegrown.parallel.picture import draw_layout

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("draw", ROOT / "tools/draw.py")
draw = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(draw)


@pytest.mark.parametrize("name", ["layout.svg", "pipeline.svg", "interleaved.svg"])
def test_pictures_are_up_to_date(name):
    assert (draw.FOLDER / name).read_text("utf-8") == draw.pictures()[name], "run `python tools/draw.py`"


def test_every_rank_is_in_the_picture():
    layout = Layout(pp=3, dp=2, cp=1, tp=2, ep=4, embp=2, part_layers=(1, 1, 1))
    words = [element.text for element in ElementTree.fromstring(draw_layout(layout)).iter() if element.text]
    assert {f"rank {rank}" for rank in range(12)} <= set(words)
    assert sum("table" in word for word in words) == 4, "only the first stage holds n-gram tables"

"""The picture of a schedule says what the schedule is."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from homegrown.parallel.drawing import INK, draw_timeline, part_colour
from homegrown.parallel.schedule import BACKWARD, FORWARD, Act, nominal, simulate, training_order
from homegrown.report.colour import contrast

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("parts", [1, 2])
def test_every_pass_is_drawn_where_it_runs(parts):
    timeline = simulate([training_order(stage, 4, parts, 8) for stage in range(4)], parts, nominal)
    root = ET.fromstring(draw_timeline(timeline, "4 stages <&> 8 micro-batches"))
    title = root.findtext(f"{SVG}title")
    assert title == f"4 stages <&> 8 micro-batches: {'27' if parts == 1 else '16'} % of the time is bubble"
    cells = [text.text for text in root.iter(f"{SVG}text") if text.get("class") == "cell"]
    assert cells == [str(slot.act.micro) for slots in timeline.stages for slot in slots]
    boxes = [box for box in root.iter(f"{SVG}rect") if box.get("height") == "26"]
    # Boxes of a row lie side by side.
    for row in {box.get("y") for box in boxes}:
        edges = [(float(box.get("x")), float(box.get("width"))) for box in boxes if box.get("y") == row]
        assert all(left + width <= following for (left, width), (following, _) in pairwise(edges))
        assert edges[-1][0] + edges[-1][1] < 960


def test_numbers_can_be_read_on_every_colour():
    for kind in (FORWARD, BACKWARD):
        colours = [part_colour(Act(kind, part, 0), 2, 4) for part in range(0, 8, 2)]
        assert len(set(colours)) == 4
        assert all(contrast(colour, INK) >= 4.5 for colour in colours)

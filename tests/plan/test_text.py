"""Plans in the terminal."""

import dataclasses
import io

from rich.console import Console

from homegrown.plan import words
from homegrown.plan.layout import Layout
from homegrown.plan.quantity import Interval
from homegrown.plan.results import StepTime
from homegrown.plan.text import show_plan
from tests.plan.made_plan import made_plan

PLAN = made_plan()


def shown(plan=PLAN, width=120) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(show_plan(plan))
    return console.file.getvalue()


def line(text: str, start: str) -> list[str]:
    """Words of the first line that begins so."""
    return next(line for line in text.splitlines() if line.strip().startswith(start)).split()


def test_every_figure_has_its_interval():
    text = shown()
    assert line(text, "Wall time")[2:] == ["29", "days", "4.1", "days", "2.2", "days", "35.3", "days"]
    assert "22.3 to 37.7 days" in text
    assert "$46.5 M to $186 M" in text
    assert "85.0 to 97.5 %" in text


def test_utilisation_never_stands_without_its_basis():
    text = shown()
    assert "Utilisation (MFU)" in text
    assert "Utilisation is a share of 486 TFLOP/s, the dense bf16 peak of X1 (a package)" in " ".join(text.split())
    bare = [dataclasses.replace(stage, figures={"days": stage.figures["days"]}) for stage in PLAN.stages]
    assert "share of 486" not in shown(dataclasses.replace(PLAN, stages=tuple(bare)))


def test_parts_of_a_step_add_up():
    for stage in PLAN.stages:
        rows = words.step_rows(stage.best.time)
        assert abs(sum(row.seconds for row in rows) - stage.best.time.seconds) < 1e-9
        assert all(row.seconds > 0 for row in rows)
    text = shown()
    assert line(text, "step")[1:] == ["10.5", "s", "19.5", "s", "86.7", "s"]
    assert "rows of n-gram tables" not in text, "what takes no time has no row"
    assert "behind computation, in no sum: tokens to experts 1.4 s" in text


def test_memory_is_shown_against_what_there_is():
    text = shown()
    assert line(text, "together")[1:] == ["89.9", "GB"] * 3
    assert line(text, "there is")[2:] == ["144", "GB"] * 3
    assert line(text, "in the host")[3:] == ["12", "GB"] * 3


def test_other_layouts_and_assumptions():
    text = " ".join(shown().split())
    assert "Layouts, 128K, 12,345 looked at, 678 fit" in text
    assert "TP2 CP16 PP8 DP192 EP256 EMBP64, interleaved 1F1B in 2 parts" in text
    assert "- 848 of 50,000 devices are left as spares (106 nodes)" in text


def test_one_stage_has_no_column_of_sums():
    plan = dataclasses.replace(PLAN, stages=PLAN.stages[:1], assumptions=())
    text = shown(plan)
    assert "together  " not in text.split("Where a step's time goes")[0]
    assert "Assumed" not in text


def test_names_are_text_and_no_markup():
    assert "Pods of X1 <b>" in shown()
    assert "[red]8K[/red]" in shown(dataclasses.replace(PLAN, cluster="[red]8K[/red]"))


def test_narrow_terminals_cut_nothing():
    lines = shown(width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines).replace("… and device", "")


def test_no_character_that_terminals_lack():
    assert "\u202f" not in shown()


class TestWords:
    def test_spreads_share_their_unit(self):
        assert words.spread("days", Interval(35.0, 27.2, 45.9)) == "27.2 to 45.9\u202fdays"
        assert words.spread("mwh", Interval(900, 500, 2000)) == "500\u202fMWh to 2\u202fGWh"
        assert words.spread("tokens_per_s_device", Interval(779, 599, 1010)) == "599 to 1,010"
        assert words.spread("days", Interval(35.0, 35.0, 35.0)) == ""
        assert words.spread("days", Interval(0.5, 0.4, 3.0)) == "9\u202fh 36\u202fmin to 3\u202fdays"

    def test_figures_nobody_knows_are_shown_by_their_key(self):
        assert words.figure_of("carbon_t").title == "carbon t"
        assert words.ordered({"carbon_t": 1, "days": 2}) == ["days", "carbon_t"]

    def test_layouts(self):
        layout = Layout(batch=8, sequence=4096)
        assert words.layout_words(layout) == "one device, micro-batches of 1, selective recomputation"
        layout = Layout(tp=8, pp=16, dp=64, batch=2048, sequence=8192, recompute="none", offload=True)
        assert words.layout_words(layout) == "TP8 PP16 DP64, 1F1B, micro-batches of 1, optimizer in host memory"
        assert words.batch_words(layout) == "2,048 sequences of 8,192 tokens"

    def test_an_empty_step(self):
        assert words.step_rows(StepTime(compute={}, exposed={})) == []

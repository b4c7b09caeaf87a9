"""Files of runs: what they may say, and the sentence about each thing they may not."""

import re
from pathlib import Path

import pytest

from homegrown.config import ConfigError, overlay
from homegrown.plan.validate.figures import FIGURES
from homegrown.plan.validate.read import read_runs, shipped_runs
from homegrown.plan.validate.replay import replay_runs
from homegrown.plan.validate.runs import Ratio, Scaling, Training
from homegrown.plan.validate.scene import Scene
from tests.plan.validate.made import TRAINING, read, write


def test_a_run_is_read_in_si_units(tmp_path):
    (run,) = read(tmp_path, published__device_hours={"low": "2e3 h", "high": "3e3 h"}, inputs__tokens="1.5T")
    step, hours = run.published
    assert (step.value, step.tolerance) == (1.1, pytest.approx(0.1))
    assert (hours.low, hours.value, hours.high) == (7.2e6, 9e6, 10.8e6)
    assert isinstance(run.inputs, Training)
    assert run.inputs.tokens == 1.5e12
    ((layout,),) = run.inputs.cases
    assert (layout.tp, layout.dp, layout.batch, layout.sequence, layout.schedule) == (8, 1, 4, 2048, "1f1b")


def test_several_parts_interleave(tmp_path):
    (run,) = read(tmp_path, inputs__devices=64, inputs__layout={"pp": 8, "parts": 3}, inputs__batch=8)
    assert run.inputs.cases[0][0].schedule == "interleaved"


def test_what_is_open_becomes_choices_and_cases(tmp_path):
    (run,) = read(
        tmp_path,
        inputs__batch={"any_of": [4, 8, 16]},
        inputs__layout__micro_batch={"best_of": [1, 4, 8]},
        inputs__layout__recompute={"best_of": ["none", "full"]},
    )
    sizes = [sorted({layout.micro_batch for layout in case}) for case in run.inputs.cases]
    assert [case[0].batch for case in run.inputs.cases] == [4, 8, 16]
    assert sizes == [[1, 4], [1, 4, 8], [1, 4, 8]], "eight sequences do not divide a batch of four"
    assert len(run.inputs.cases[1]) == 6


def test_layers_of_parts(tmp_path):
    layout = {"pp": 4, "tp": 2, "parts": 2, "layers": [[1, 5], [6, 6], [1, 7]], "micro_batch": 1}
    (run,) = read(tmp_path, inputs__layout=layout)
    assert run.inputs.cases[0][0].layers == (5, 6, 6, 6, 6, 6, 6, 7)


def test_rows_of_a_table_are_runs(tmp_path):
    shared = {key: value for key, value in TRAINING.items() if key != "id"}
    table = {
        **overlay(shared, {"published": {"step": {"tolerance": "5 %"}}}),
        "id": "sweep",
        "columns": ["id", "inputs.batch", "published.step.value", "published.mfu"],
        "rows": [["small", 4, "1.1 s", ""], ["large", 8, "2.2 s", "50 %"]],
    }
    small, large = read_runs(write(tmp_path, table=[table]))
    assert (small.id, large.id) == ("sweep-small", "sweep-large")
    assert [published.figure for published in small.published] == ["step"]
    assert [published.value for published in large.published] == [2.2, 0.5]
    assert large.published[0].tolerance == pytest.approx(0.05)
    assert large.inputs.cases[0][0].batch == 8


def test_scaling_series(tmp_path):
    inputs = {key: value for key, value in TRAINING["inputs"].items() if key != "devices"}
    run = {
        **TRAINING,
        "kind": "scaling",
        "inputs": {**inputs, "batch": 16, "points": [{"devices": 8}, {"devices": 16}]},
        "published": {"efficiency": {"values": ["", "95 %"], "tolerance": "5 %"}, "step": {"values": ["4 s", "2.1 s"]}},
    }
    (series,) = read_runs(write(tmp_path, run))
    assert isinstance(series.inputs, Scaling)
    assert [label for label, _ in series.inputs.points] == ["8", "16"]
    assert [published.key for published in series.published] == ["efficiency@16", "step@8", "step@16"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mark": "D"}, "mark = 'D'"),
        ({"kind": "trainng"}, "kind = 'trainng'"),
        ({"date": "last year"}, "date = 'last year': must be written as 2025"),
        ({"sources": "x"}, "unknown key 'sources' (did you mean 'source'?)"),
        ({"inputs__modle": "x"}, "inputs: unknown key 'modle' (did you mean 'model'?)"),
        ({"inputs__devices": 12}, "pp * tp * cp = 8 must divide devices = 12"),
        ({"inputs__layout__dp": 2}, "times dp = 2 makes 16, not devices = 8"),
        ({"inputs__layout__tpp": 2}, "layout: unknown key 'tpp' (did you mean 'tp'?)"),
        ({"inputs__layout__tp": 0}, "layout.tp = 0: must be a whole number"),
        ({"inputs__layout__precision": "fp7"}, "layout.precision = 'fp7': must be one of bf16, fp8"),
        ({"inputs__layout__micro_batch": 3}, "layout.batch = 4: must be divisible by dp * micro_batch = 3"),
        ({"inputs__layout__micro_batch": {"some_of": [1]}}, "what is open is { best_of = [...] }"),
        ({"inputs__layout__layers": [[1]]}, "layout.layers = [[1]]: must be a list of pairs"),
        ({"inputs__layout__comm_share": 1.5}, "comm_share = 1.5: must be a share"),
        ({"inputs__batch": {"any_of": []}}, "what is open is"),
        ({"inputs__sequence": -1}, "inputs.sequence = -1"),
        ({"inputs__tokens": "1.5 GB"}, "inputs.tokens = '1.5 GB'"),
        ({"published__speed": "1 s"}, "no figure 'speed'"),
        ({"published__step": "1.1 GB"}, "published.step.value = '1.1 GB'"),
        ({"published__step": "0 s"}, "published.step.value = '0 s': must be positive"),
        ({"published__step": {"low": "1 s"}}, "must say one of value, low with high"),
        ({"published__step__at_least": "1 s"}, "must say one of value"),
        ({"published__step__tolerance": "ten"}, "published.step.tolerance = 'ten'"),
        ({"published__mfu": {"low": "40 %", "high": "30 %"}}, "high = '30 %': must not be below low"),
        ({"published__ratio": 1.0}, "runs of kind 'ratio' publish `ratio`"),
    ],
)
def test_mistakes_are_sentences(tmp_path, changes, sentence):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, **changes)
    assert sentence in str(error.value)
    assert str(error.value).startswith("runs.toml: mine")


@pytest.mark.parametrize("key", ["title", "kind", "source", "date", "mark"])
def test_what_is_missing_is_named(tmp_path, key):
    run = {name: value for name, value in TRAINING.items() if name != key}
    with pytest.raises(ConfigError, match=f"runs.toml: mine.*{key}"):
        read_runs(write(tmp_path, run))


@pytest.mark.parametrize("key", ["model", "cluster", "sequence", "batch", "devices"])
def test_missing_inputs_are_never_guessed(tmp_path, key):
    inputs = {name: value for name, value in TRAINING["inputs"].items() if name != key}
    with pytest.raises(ConfigError, match=rf"runs.toml: mine.inputs.*{key}"):
        read_runs(write(tmp_path, {**TRAINING, "inputs": inputs}))


def test_ids_are_unique_and_known(tmp_path):
    with pytest.raises(ConfigError, match="'mine': two runs have this id"):
        read_runs(write(tmp_path, TRAINING, TRAINING))
    inputs = {"over": "mine", "under": "mein", "figure": "step"}
    ratio = {**TRAINING, "id": "r", "kind": "ratio", "inputs": inputs, "published": {"ratio": 1.0}}
    with pytest.raises(ConfigError, match=r"no run 'mein' to compare \(did you mean 'mine'\?\)"):
        read_runs(write(tmp_path, TRAINING, ratio))
    with pytest.raises(ConfigError, match="holds no runs"):
        read_runs(write(tmp_path))


def test_a_table_needs_columns_and_even_rows(tmp_path):
    with pytest.raises(ConfigError, match="needs `columns`, one of them 'id'"):
        read_runs(write(tmp_path, table=[{"columns": ["x"], "rows": []}]))
    with pytest.raises(ConfigError, match="must have 2 cells"):
        read_runs(write(tmp_path, table=[{"columns": ["id", "title"], "rows": [["a"]]}]))


class TestShipped:
    def test_every_run_has_a_source_and_figures(self):
        runs = shipped_runs()
        assert len(runs) > 100
        for run in runs:
            assert run.published, run.id
            assert len(run.source) > 10, run.id
            assert all(published.figure in FIGURES for published in run.published)

    def test_energy_is_metered(self):
        """Hours times a rated power would only test multiplication."""
        circular = ("llama", "bloom", "starcoder", "gopher")
        names = [run.id for run in shipped_runs() if run.kind == "energy"]
        assert names
        assert not [name for name in names if name.startswith(circular)]

    def test_uncounted_figures_say_why(self):
        for run in shipped_runs():
            for published in run.published:
                assert not published.uncounted or len(published.uncounted) > 20, run.id

    def test_ratios_compare_what_both_publish(self):
        runs = {run.id: run for run in shipped_runs()}
        ratios = [run for run in runs.values() if isinstance(run.inputs, Ratio)]
        assert ratios
        for run in ratios:
            for other in (run.inputs.over, run.inputs.under):
                assert run.inputs.figure in {published.figure for published in runs[other].published}, run.id


def test_the_examples_of_the_documentation(tmp_path):
    text = (Path(__file__).parents[3] / "docs/planning-validate.md").read_text("utf-8")
    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 2
    (tmp_path / "mine.toml").write_text("\n".join(examples), "utf-8")
    runs = read_runs(tmp_path / "mine.toml")
    assert [run.id for run in runs] == ["mine-8", "sweep-1.7b", "sweep-3.6b"]
    assert len(replay_runs(runs, Scene(worlds=2))) == 4
    for figure in FIGURES:
        assert f"`{figure}`" in text or FIGURES[figure].group == "serving", f"{figure} is not in the documentation"

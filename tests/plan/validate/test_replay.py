"""Replays: from inputs alone, alike every time, and right where arithmetic says what is right."""

from dataclasses import replace

import pytest

from homegrown.config import ConfigError, overlay
from homegrown.plan.quantity import EXPECTED, Interval
from homegrown.plan.step import step_time
from homegrown.plan.validate.read import read_runs, shipped_runs
from homegrown.plan.validate.replay import Outcome, predict, replay_runs
from homegrown.plan.validate.runs import Inputs, Published
from homegrown.plan.validate.scene import Scene
from tests.plan.validate.made import TRAINING, read, write


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(worlds=16)


def predicted(scene: Scene, runs) -> dict[str, Interval]:
    inputs: dict[str, Inputs] = {run.id: run.inputs for run in runs}
    return predict(runs[-1].id, inputs, scene)


def test_published_figures_do_not_leak(scene, tmp_path):
    """A run whose outcome is replaced is predicted alike to the last bit, figures shipped or not."""
    (run,) = read(tmp_path)
    (other,) = read(tmp_path, published__step__value="77 s")
    assert other.published[0].value == 77
    assert predicted(scene, [run]) == predicted(scene, [other])
    chosen = [run for run in shipped_runs() if run.group == "DeepSeek-V3 on three generations"]
    forged = [
        replace(run, published=tuple(replace(one, value=one.value * 3, low=one.low * 3, high=one.high * 3)
                                     for one in run.published))
        for run in chosen
    ]  # fmt: skip
    honest, changed = replay_runs(chosen, scene), replay_runs(forged, scene)
    assert [one.predicted for one in honest] == [one.predicted for one in changed]
    assert [one.error for one in honest] != [one.error for one in changed]


def test_alike_every_time(tmp_path):
    (run,) = read(tmp_path)
    assert predicted(Scene(worlds=8), [run]) == predicted(Scene(worlds=8), [run])


def test_step_is_the_planners(scene, tmp_path):
    (run,) = read(tmp_path)
    shape, (layout,) = scene.shape("gpt-22b"), run.inputs.cases[0]
    time = step_time(shape, layout, scene.machine("hgx-a100", EXPECTED), scene.constants(EXPECTED))
    found = predicted(scene, [run])
    assert found["step"].value == time.seconds
    assert found["tokens_per_s"].value == pytest.approx(4 * 2048 / time.seconds)
    assert found["mfu"].value == pytest.approx(found["flops_device"].value / 312e12)
    assert found["step"].low < found["step"].value < found["step"].high


def test_hours_follow_from_the_step(scene, tmp_path):
    (run,) = read(tmp_path, inputs__tokens=8192 * 1000)
    found = predicted(scene, [run])
    assert found["days"].value == pytest.approx(1000 * found["step"].value)
    assert found["device_hours"].value == pytest.approx(8000 * found["step"].value)
    (kept,) = read(tmp_path, inputs__tokens="300B", inputs__own_goodput=True)
    (lost,) = read(tmp_path, inputs__tokens="300B")
    assert predicted(scene, [kept])["days"].value > predicted(scene, [lost])["days"].value


def test_the_best_of_what_is_open_is_taken(scene, tmp_path):
    alone = [predicted(scene, read(tmp_path, inputs__layout__micro_batch=size))["step"].value for size in (1, 2, 4)]
    open_ = predicted(scene, read(tmp_path, inputs__layout__micro_batch={"best_of": [1, 2, 4]}))
    assert open_["step"].value == min(alone)


def test_what_is_unknown_widens_the_interval(scene, tmp_path):
    def width(**changes):
        found = predicted(scene, read(tmp_path, **changes))["tokens_per_s_device"]
        return found.high / found.low

    layout = {"inputs__devices": 64, "inputs__layout": {"pp": 8, "micro_batch": 1}}
    known = width(inputs__batch=32, **layout)
    assert width(inputs__batch={"any_of": [8, 32, 256]}, **layout) > 1.2 * known


def test_a_layout_that_the_model_cannot_have_is_a_sentence(scene, tmp_path):
    runs = read(tmp_path, inputs__devices=512, inputs__layout={"pp": 64, "micro_batch": 1})
    with pytest.raises(ConfigError, match=r"run 'mine': .*48 layers"):
        predicted(scene, runs)


@pytest.mark.parametrize(("key", "name"), [("model", "deepsek-v3"), ("cluster", "hgx-a101")])
def test_unknown_names_are_answered_with_known_ones(scene, tmp_path, key, name):
    with pytest.raises(ConfigError, match=rf"run 'mine': no {key} '{name}' \(did you mean '"):
        predicted(scene, read(tmp_path, **{f"inputs__{key}": name}))


def test_a_model_by_its_sizes(scene, tmp_path):
    shape = {
        "hidden": 6144, "vocab": 51200, "gated": False, "bias": True, "tied": True, "dropout": True, "positions": 2048,
        "attention": {"kind": "gqa", "heads": 64, "query": 96, "value": 96},
        "layers": [{"count": 48, "dense": [24576]}],
    }  # fmt: skip
    run = overlay(TRAINING, {"inputs": {"model": None}})
    run["inputs"]["model"] = shape
    (mine,) = read_runs(write(tmp_path, run))
    (named,) = read(tmp_path)
    assert predicted(scene, [mine])["step"].value == pytest.approx(predicted(scene, [named])["step"].value, rel=1e-6)


def test_a_ratio_keeps_worlds_together(scene, tmp_path):
    """Over itself a run is 1 in every world, however uncertain it is."""
    inputs = {"over": "mine", "under": "mine", "figure": "step"}
    ratio = {**TRAINING, "id": "ratio", "kind": "ratio", "inputs": inputs, "published": {"ratio": 1.0}}
    found = predicted(scene, read_runs(write(tmp_path, TRAINING, ratio)))
    assert found["ratio"] == Interval(1.0, 1.0, 1.0)
    ratio["inputs"] = inputs | {"figure": "kv_tokens"}
    with pytest.raises(ConfigError, match=r"the planner says .*step"):
        predicted(scene, read_runs(write(tmp_path, TRAINING, ratio)))


def test_scaling_efficiency(scene, tmp_path):
    inputs = {key: value for key, value in TRAINING["inputs"].items() if key != "devices"}
    inputs |= {"batch": 64, "points": [{"devices": 8}, {"devices": 64}], "layout": {"tp": 8, "micro_batch": 1}}
    published = {"efficiency": {"values": ["100 %", "90 %"]}}
    found = predicted(
        scene, read_runs(write(tmp_path, {**TRAINING, "kind": "scaling", "inputs": inputs, "published": published}))
    )
    assert found["efficiency@8"].value == 1
    ratio = found["tokens_per_s_device@64"].value / found["tokens_per_s_device@8"].value
    assert found["efficiency@64"].value == pytest.approx(ratio)
    assert ratio < 1


def test_failures_by_hand(scene, tmp_path):
    """MTTF = 1 / (N r): 3.09 h on 2,048 nodes at 3.79 per 1000 node-days; 419 in 54 days (arXiv 2407.21783)."""
    inputs = {"cluster": "hgx-h100", "nodes": 2048, "failures": "3.79 per 1000 node-days", "time": "54 d"}
    run = {**TRAINING, "kind": "reliability", "inputs": inputs, "published": {"mtbf": "3.09 h", "interruptions": 419}}
    found = predicted(scene, read_runs(write(tmp_path, run)))
    assert found["mtbf"].value == pytest.approx(86400 / (2048 * 3.79e-3))
    assert found["interruptions"].value == pytest.approx(54 * 2048 * 3.79e-3)
    # A Poisson count of 419 has a deviation of its root, 20.5, and its rate is known to 2 %.
    assert 419 - found["interruptions"].low == pytest.approx(1.28 * 22, rel=0.35)


def test_energy_by_hand(scene, tmp_path):
    def energy(**inputs):
        run = {**TRAINING, "kind": "energy", "published": {"power": "1 kW"}}
        run["inputs"] = {"cluster": "hgx-h100", "devices": 10, "time": "100 h", **inputs}
        return predicted(scene, read_runs(write(tmp_path, run)))

    system = energy(parts="system")
    assert system["energy"].value == pytest.approx(system["power"].value * 100 * 3600)
    assert energy(parts="device")["power"].value < system["power"].value
    assert energy(pue=1.5)["power"].value == pytest.approx(1.5 * system["power"].value)
    assert energy(pue=1.5, parts="device")["power"].value < energy(pue=1.5)["power"].value


def test_cost_by_hand(scene, tmp_path):
    run = {**TRAINING, "kind": "cost", "published": {"usd": "5.576 MUSD"}}
    run["inputs"] = {"cluster": "hgx-h800", "devices": 2788, "time": "1000 h", "rental": "2 USD/h"}
    assert predicted(scene, read_runs(write(tmp_path, run)))["usd"].value == pytest.approx(5.576e6)


def test_a_figure_that_such_a_run_has_not_is_a_sentence(scene, tmp_path):
    with pytest.raises(ConfigError, match=r"published.ttft: the planner does not say this .* but .*step"):
        replay_runs(read(tmp_path, published__ttft="1 s"), scene)


def test_only_some(scene):
    runs = shipped_runs()
    outcomes = replay_runs(runs, scene, ["narayanan-1", "work-kimi-k2"])
    assert {outcome.run.id for outcome in outcomes} == {
        "narayanan-1.7b", "narayanan-18.4b", "narayanan-145.6b", "narayanan-1t", "work-kimi-k2"
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"no run 'narayan-1' \(did you mean 'narayanan-1"):
        replay_runs(runs, scene, ["narayan-1"])


class TestOutcome:
    def outcome(self, tmp_path, low: float, value: float, high: float, /, **published) -> Outcome:
        figure = published.pop("figure", "step")
        fields = {"figure": figure, "value": 10.0, "low": 10.0, "high": 10.0, **published}
        (run,) = read(tmp_path)
        return Outcome(run=run, published=Published(**fields), predicted=Interval(value, low, high))

    def test_errors_are_signed(self, tmp_path):
        assert self.outcome(tmp_path, 8, 9, 11).error == pytest.approx(-0.1)
        assert self.outcome(tmp_path, 8, 11, 12).error == pytest.approx(0.1)
        shares = self.outcome(tmp_path, 0.8, 0.85, 0.9, figure="efficiency", value=0.9, low=0.9, high=0.9)
        assert shares.error == pytest.approx(-0.05), "efficiencies differ by points"

    def test_bounds(self, tmp_path):
        assert self.outcome(tmp_path, 11, 12, 13, bound="at least").error == 0
        assert self.outcome(tmp_path, 11, 12, 13, bound="at least").inside
        assert self.outcome(tmp_path, 7, 8, 9, bound="at least").error == pytest.approx(-0.2)
        assert not self.outcome(tmp_path, 7, 8, 9, bound="at least").inside
        assert self.outcome(tmp_path, 11, 12, 13, bound="at most").error == pytest.approx(0.2)

    def test_intervals(self, tmp_path):
        assert self.outcome(tmp_path, 9, 10, 11).inside is True
        assert self.outcome(tmp_path, 11, 12, 13).inside is False
        assert self.outcome(tmp_path, 11, 12, 13, high=11.5).inside is True, "part of the published range is inside"
        assert self.outcome(tmp_path, 12, 12, 12).inside is None, "an exact count has no interval"

    def test_hit_or_miss(self, tmp_path):
        assert not self.outcome(tmp_path, 11, 12, 13, tolerance=0.25).missed
        missed = self.outcome(tmp_path, 9, 12, 13, tolerance=0.1)
        assert missed.missed
        assert missed.reason == "unexplained"
        assert self.outcome(tmp_path, 9, 12, 13, tolerance=0.1, reason="old").reason == "old"
        assert self.outcome(tmp_path, 9, 12, 13).reason == "", "without a tolerance the interval decides"

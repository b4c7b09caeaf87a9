"""Regressions between records, and the goals' table."""

import copy
import json

import pytest

from homegrown.bench.compare import compare, figures, judge, last, load
from homegrown.bench.goals import GOALS, markdown, rows
from homegrown.cli import bench
from homegrown.config import UserError


def spread(*values):
    ordered = sorted(values)
    return {
        "median": ordered[len(ordered) // 2], "lower_quartile": ordered[0], "upper_quartile": ordered[-1],
        "minimum": ordered[0], "maximum": ordered[-1], "values": list(values),
    }  # fmt: skip


def entry(case, mode, *seconds, floor=None, implementation="homegrown", **more):
    made = {"case": case, "sizes": {}, "implementation": implementation, "mode": mode, "seconds": spread(*seconds)}
    if floor:
        made["floor"] = {"flops": 0, "bytes": 0, "peak": "", "seconds": floor, "bound": "memory"}
        made["share"] = floor / made["seconds"]["median"]
    return {**made, "extra": {}, **more}


def record(*entries, kind="decode", shape="tiny", date="2026-11-24T10:00:00+00:00", cores=2, **more):
    device = {"type": "cpu", "name": "chip", "cores": cores}
    origin = {"date": date, "device": device, "threads": 2}
    return {"kind": kind, "origin": origin, "shape": {"name": shape, "steps": 8}, "entries": list(entries), **more}


def one(seconds, floor=None, **more):
    return record(entry("batch 1", "float32", *seconds, floor=floor, **more))


def verdict(old, new):
    (change,) = compare(old, new).changes
    return change.verdict


def test_five_per_cent_are_never_a_regression():
    assert verdict(one([1.0]), one([1.05])) == "same"
    assert verdict(one([1.0]), one([1.06])) == "regressed"
    assert verdict(one([1.06]), one([1.0])) == "improved"


def test_noise_of_both_counts():
    """Half the quartile range is 0.1 of the median in both: a change must exceed 3 x 0.1 x the root of two."""
    noisy = [0.9, 1.0, 1.1]
    assert judge(1.0, [0.1, 0.1])[1] == pytest.approx(0.424, abs=1e-3)
    assert verdict(one(noisy), one([1.4 * value for value in noisy])) == "same"
    assert verdict(one(noisy), one([1.5 * value for value in noisy])) == "regressed"
    assert verdict(one([1.0]), one([1.2 * value for value in noisy])) == "same"


def test_a_slower_machine_is_not_slower_code():
    assert verdict(one([1.0], floor=0.5), one([2.0], floor=1.0)) == "same"
    assert verdict(one([1.0], floor=0.5), one([1.0], floor=0.4)) == "regressed"


def test_a_peer_never_fails_the_comparison():
    old, new = (one([seconds], implementation="transformers") for seconds in (1.0, 2.0))
    found = compare(old, new)
    assert found.changes[0].verdict == "regressed"
    assert found.regressions == []


def test_what_only_one_has_is_named():
    old, new = record(entry("a", "x", 1.0), entry("b", "x", 1.0)), record(entry("b", "x", 1.0), entry("c", "x", 1.0))
    found = compare(old, new)
    assert ([change.name for change in found.changes], found.only_old, found.only_new) == (
        ["b, homegrown, x"], ["a, homegrown, x"], ["c, homegrown, x"],
    )  # fmt: skip


@pytest.mark.parametrize("what", ["kind", "shape", "hardware"])
def test_other_measurements_are_refused(what):
    other = {"kind": {"kind": "prefill"}, "shape": {"shape": "small"}, "hardware": {"cores": 3}}[what]
    with pytest.raises(UserError, match=f"the records differ in {what}"):
        compare(record(), record(**other))


def test_records_of_training_and_scaling_can_be_compared():
    step = {"implementation": "homegrown", "mode": "bfloat16", "seconds": spread(2.0), "floor_seconds": 1.0}
    (name,) = figures(record(step, kind="train"))
    assert name == "homegrown, bfloat16"
    assert figures(record(step, kind="train"))[name].floor == 1.0
    assert list(figures(record({"name": "dp 2", "seconds": spread(1.0)}, kind="scaling"))) == ["dp 2"]


def test_last_is_the_newest_of_the_same(tmp_path):
    dates = {"a": "2026-11-20", "b": "2026-11-22", "c": "2026-11-21"}
    for name, date in dates.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record(date=date)))
    (tmp_path / "other.json").write_text(json.dumps(record(date="2026-11-23", shape="small")))
    (tmp_path / "served.json").write_text('{"kind": "serve"}')
    new = tmp_path / "new.json"
    new.write_text(json.dumps(record(date="2026-11-24")))
    assert last(load(new), tmp_path, new) == tmp_path / "b.json"
    assert last(record(kind="train"), tmp_path, new) is None


def test_a_file_that_is_no_record(tmp_path):
    (tmp_path / "x.json").write_text("[1")
    with pytest.raises(UserError, match="not JSON"):
        load(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match="it needs kind, origin and entries"):
        load(tmp_path / "x.json")


def test_the_command_fails_on_a_regression(tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(one([1.0])))
    new.write_text(json.dumps(one([1.5])))
    assert bench.run(["compare", str(old), str(old)]) == 0
    assert bench.run(["compare", str(old), str(new)]) == 1
    said = capsys.readouterr()
    assert "1 figures, 1 regressed\nregressed: worse by more than 5%" in said.out
    assert "1.50" in said.err


# Goals


def decoded(batch, context, mode, seconds, **more):
    sizes = {"batch": batch, "context": context}
    return entry(f"batch {batch}, context {context:,}", mode, seconds, floor=0.6, **more) | {"sizes": sizes}


def beats(case, mode, ratio):
    return {"case": case, "homegrown": mode, "peer": "transformers float32", "ratio": ratio}


DECODE = record(
    decoded(1, 128, "bfloat16, served", 1.0),
    decoded(1, 128, "float32, served", 0.8),
    decoded(1, 4096, "bfloat16, served", 1.4),
    decoded(8, 128, "bfloat16, served", 4.0),
    decoded(8, 4096, "bfloat16, served", 8.0),
    versus=[
        beats("batch 1, context 128", "bfloat16, served", 6.0),
        beats("batch 1, context 128", "float32, served", 3.0),
        beats("batch 1, context 4,096", "bfloat16, served", 5.5),
        beats("batch 1, context 4,096", "int8, served", 7.5),
        beats("batch 8, context 128", "bfloat16, served", 3.5),
    ],
)
LOAD = record(
    entry("import homegrown", "start", 0.1, floor=0.05),
    entry("load in memory", "", 1.0, floor=0.4, extra={"peak_over_weights": 1.5}),
    entry("load from disk", "", 2.0, floor=1.0, extra={"peak_over_weights": 1.02}),
    kind="load",
)
LONG = record(
    *(
        entry("", "bfloat16", 1.0, sizes={"tokens": tokens}, extra={"ms_per_token": cost, "indexer_share": 0.5})
        for tokens, cost in ((8192, 1.0), (131072, 2.5))
    ),
    kind="prefill-long",
    shape="sparse",
)
TRAIN = record(
    {"implementation": "homegrown", "mode": "bfloat16", "seconds": spread(1.0), "peak_share": 0.6},
    kind="train",
    comparison={"homegrown": "bfloat16", "peer": "autocast", "ratio": 3.5},
)
DRAFTS = record(
    entry("64 tokens of text", "float32, plain", 2.0),
    entry("64 tokens of text", "float32, speculating", 1.0, extra={"acceptance": 0.5}),
    shape="export",
)


@pytest.fixture
def answers(tmp_path):
    for number, made in enumerate((DECODE, LOAD, LONG, TRAIN, DRAFTS)):
        (tmp_path / f"{number}.json").write_text(json.dumps(made))
    return {(row.goal.text, row.source.shape): row for row in rows(tmp_path)}


@pytest.mark.parametrize(
    ("goal", "shape", "value", "met"),
    [
        ("training step, best mode of the peer: 3x", "tiny", 3.5, True),
        ("training step: 55 % of the bf16 peak", "tiny", 0.6, True),
        ("time per token at 128K under 2x that at 8K", "sparse", 2.5, False),
        ("decode, batch 1: 70 % of memory bandwidth", "tiny", 0.6, False),
        ("decode, batch 1: 5x the peer", "tiny", 5.5, True),
        ("decode, batch 8 and 32: 4x the peer", "tiny", 3.5, False),
        ("context 4,096 within 1.5x of short", "tiny", 2.0, False),
        ("speculation: a further gain", "export", 2.0, True),
        ("import of the package under 0.5 s", "tiny", 0.1, True),
        ("loading near the speed of a mapped read", "tiny", 0.5, False),
        ("peak memory of loading near the weights", "tiny", 1.02, True),
        ("prefill of 4,096 tokens: 6x the peer", "tiny", None, None),
    ],
)
def test_goals_follow_from_records(answers, goal, shape, value, met):
    row = answers[goal, shape]
    assert (row.value, row.met) == (value if value is None else pytest.approx(value), met)


def test_the_table_names_records_and_what_is_missing(answers):
    text = markdown(list(answers.values()))
    assert "| 5.50x | yes | batch 1, context 4,096: bfloat16, served against transformers float32; int8 7.50x |" in text
    assert "| prefill of 4,096 tokens: 6x the peer | small |  | not measured |  |  |" in text
    assert len(text.splitlines()) == 2 + sum(len(goal.sources) for goal in GOALS)


def test_a_newer_record_takes_the_place_of_an_older_one(tmp_path):
    newer = copy.deepcopy(TRAIN)
    newer["origin"]["date"] = "2026-12-01T00:00:00+00:00"
    newer["comparison"]["ratio"] = 4.0
    (tmp_path / "a.json").write_text(json.dumps(newer))
    (tmp_path / "b.json").write_text(json.dumps(TRAIN))
    assert next(row.value for row in rows(tmp_path) if row.source.kind == "train") == 4.0


def test_the_goals_command(tmp_path, capsys):
    (tmp_path / "a.json").write_text(json.dumps(TRAIN))
    assert bench.run(["goals", str(tmp_path)]) == 0
    assert "| tiny | 60% | yes | model FLOPs, bfloat16 |" in capsys.readouterr().out
    assert bench.run(["goals", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["reached"] == 3.5
    with pytest.raises(UserError, match="no such folder"):
        bench.run(["goals", str(tmp_path / "none")])


def test_few_rounds_are_pointed_out_and_names_told_on_request(tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(record(entry("a", "x", 1.0), entry("b", "x", 1.0))))
    new.write_text(json.dumps(record(entry("a", "x", 1.0))))
    bench.run(["compare", str(old), str(new)])
    said = capsys.readouterr().out
    assert "1 figures only in the old record\nonly 1 rounds: noise is judged from 5 or more" in said
    bench.run(["compare", str(old), str(new), "--all"])
    assert "only in the old record: b, homegrown, x" in capsys.readouterr().out


def test_other_runs_of_scaling_are_refused():
    old, new = (record(kind="scaling", config={"seed": seed}) for seed in (1, 2))
    with pytest.raises(UserError, match="the records differ in config; times"):
        compare(old, new)

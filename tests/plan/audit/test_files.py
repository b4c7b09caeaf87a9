"""Claims' files: what is refused, in which words."""

from __future__ import annotations

import copy

import pytest

from homegrown.config import ConfigError
from homegrown.plan.audit import load
from homegrown.plan.audit.files import claim

GOOD = {
    "title": "A run",
    "model": "llama-1-65b",
    "basis": {"cluster": "hgx-a100", "sequence": 2048},
    "figures": {"shards": "files of the data"},
    "relations": ["tokens = shards * 1e9"],
    "part": [{"name": "end", "title": "the end"}],
    "statement": [
        {"id": "tokens", "quantity": "tokens", "value": "1.4T", "says": "tokens"},
        {"id": "days", "quantity": "time", "value": "21 days", "says": "days", "part": "end"},
        {"id": "shards", "quantity": "shards", "value": 1400, "says": "shards"},
    ],
    "reading": [
        {"name": "unit", "question": "which", "choice": [
            {"name": "days", "says": "days"}, {"name": "weeks", "says": "weeks", "statements": {"days": "21 weeks"}},
        ]},
    ],
    "score": [{"benchmark": "mmlu", "model": "it", "value": "63.4 %", "own": True}],
}  # fmt: skip


def change(path: str, value: object) -> dict:
    table = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    here = table
    for key in parents:
        here = here[int(key) if key.isdigit() else key]
    here[int(last) if last.isdigit() else last] = value
    return table


def test_what_the_others_are_changes_of_is_good():
    made = claim(GOOD, "good.toml", "good")
    assert made.name == "good"
    assert [item.span.value for item in made.statements] == [1.4e12, 21 * 86400, 1400]
    readings = list(made.readings())
    assert [reading.choices["unit"] for reading in readings] == ["days", "weeks"]
    assert [reading.statements[1].span.value / 86400 for reading in readings] == pytest.approx([21, 147])


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("titel", "x", "unknown key 'titel' (did you mean 'title'?)"),
        ("statement.0.quantity", "tokkens", "no figure 'tokkens' (did you mean 'tokens'?)"),
        ("statement.0.value", "1.4 TB", "unknown unit 'TB'"),
        ("statement.0.value", "1.4", "absurd"),
        ("statement.1.value", "21 W", "measures power"),
        ("statement.0.valeu", "1", "unknown key 'valeu' (did you mean 'value'?)"),
        ("statement.1.id", "tokens", "statement 'tokens' is there twice"),
        ("statement.1.part", "start", "part 'start' is not there; there are: end"),
        ("statement.0.computed_from", ["hours"], "computed_from 'hours' is not there"),
        ("statement.0.mark", "Z", "Invalid"),
        ("statement.0.id", "to kens", "'to kens' is no name"),
        ("reading.0.choice.1.statements", {"dyas": "1 day"}, "statement 'dyas' is not there"),
        ("reading.0.choice.1.statements", {"days": "21 kg"}, "unknown unit 'kg'"),
        ("reading.0.choice.1.quantities", {"days": "energy"}, "measures time"),
        ("reading.0.choice.1.basis", {"chpi": "x"}, "unknown key 'chpi' (did you mean 'chip'?)"),
        ("reading.0.choice.1.basis", {"attention": "half"}, "Invalid enum value 'half'"),
        ("reading.0.choice", [{"name": "days", "says": "days"}], "has 1 choice"),
        ("reading.0.choice.1.name", "days", "choice 'days' is there twice"),
        ("relations", ["tokens = shrads * 1e9"], "no figure 'shrads'"),
        ("relations", ["tokens"], "an identity has one '='"),
        ("figures", {"tokens": "mine"}, "not one of a known figure"),
        ("figures", {"shards": {"title": "x", "like": "pwoer"}}, "did you mean 'power'?"),
        ("figures", {"shards": 3}, "must be a title, or a table"),
        ("score.0.value", "634 %", "absurd"),
        ("score.0.runs", 0, "runs = 0: must be at least 1"),
        ("basis", {"recompute": "some"}, "Invalid enum value 'some'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(path, value, told):
    with pytest.raises(ConfigError, match=r"bad\.toml") as caught:
        claim(change(path, value), "bad.toml", "bad")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_claim_that_says_nothing():
    with pytest.raises(ConfigError, match="says nothing"):
        claim({"title": "x"}, "bad.toml", "bad")


def test_too_many_readings():
    table = copy.deepcopy(GOOD)
    choices = [{"name": f"c{number}", "says": "x"} for number in range(9)]
    table["reading"] = [{"name": f"r{number}", "question": "q", "choice": choices} for number in range(3)]
    with pytest.raises(ConfigError, match="729 combinations of readings; must be at most 512"):
        claim(table, "bad.toml", "bad")


@pytest.mark.parametrize(
    ("basis", "told"),
    [
        ({"chip": "a1000"}, "no chip 'a1000'"),
        ({"cluster": "hgx-a1000"}, "no cluster 'hgx-a1000'"),
        ({"chip": "a100", "dtype": "fp8"}, "basis.dtype = 'fp8': A100 SXM 80GB has bf16"),
        ({"chip": "a100", "precision": "fp4"}, "basis.precision = 'fp4'"),
    ],
)
def test_hardware_that_is_not_there(audit_table, basis, told):
    with pytest.raises(ConfigError) as caught:
        audit_table(change("basis", basis))
    assert told in str(caught.value)


def test_unknown_model_and_benchmark(audit_table):
    with pytest.raises(ConfigError, match="no model 'llama-1-66b'"):
        audit_table(change("model", "llama-1-66b"))
    with pytest.raises(ConfigError, match="no benchmark 'mmlux'"):
        audit_table(change("score.0.benchmark", "mmlux"))


def test_names_and_files(tmp_path):
    with pytest.raises(ConfigError, match=r"no claim 'longcat-2'; did you mean 'longcat-2\.0'\?"):
        load("longcat-2")
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "mine.toml").write_text('title = "mine"\n[[score]]\nbenchmark = "mmlu"\nmodel = "m"\nvalue = "50 %"\n')
    assert load(tmp_path / "mine.toml").name == "mine"

"""Scaling: real processes, a run of no size."""

import os
import signal
import time
from pathlib import Path

import msgspec
import pytest
import torch

from homegrown.bench.scaling import Crew, CrewError, ScalingPlan, ScalingRecord, cases, run_scaling, turns
from homegrown.bench.scaling.measure import refuse_other_losses
from homegrown.bench.scaling.show import summary, table
from homegrown.bench.scaling.work import SPECIAL, _made_up
from homegrown.bench.train import MismatchError
from homegrown.cli import bench
from homegrown.config import ConfigError, UsageError, to_toml

from ..train import tiny

CPU = torch.device("cpu")
CONFIG = tiny.train_config(Path("unused"))


def plan_of(**changes):
    fields = {"config": CONFIG, "threads": 2, "steps": 2, "repetitions": 2, "warmup": 1, "sum_bytes": 4096}
    return ScalingPlan(**{**fields, "timeout_s": 60.0, **changes})


# The command, once, on real processes


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the command wrote, and the file."""
    folder = tmp_path_factory.mktemp("scaling")
    (folder / "tiny.toml").write_text(to_toml(CONFIG))
    out = folder / "record.json"
    with pytest.MonkeyPatch.context() as patch:
        # This process goes on to run other tests: its allocator and its threads stay as they are.
        patch.setattr("homegrown.device.keep_host_memory", lambda: False)
        patch.setattr("homegrown.device.set_threads", lambda count: count)
        argv = ["--config", str(folder / "tiny.toml"), "--layouts", "dp", "--threads", "1", "--steps", "2"]
        argv += ["--repetitions", "2", "--warmup", "1", "--sum-mib", "1", "--device", "cpu", "--out", str(out)]
        assert bench.run(["scaling", *argv]) == 0
    return out


@pytest.fixture
def record(told):
    return msgspec.json.decode(told.read_bytes(), type=ScalingRecord)


ROUND = ["1 process, 1 thread", "1 process, not deterministic", "2 processes, dp 2", "sums"]


def test_everything_has_one_turn_a_round(record):
    assert record.order == ROUND * 3
    assert (record.warmup, record.repetitions, record.steps, record.tokens) == (1, 2, 2, 128)


def test_warm_up_is_not_measured(record):
    for entry in [*record.entries, *record.sums]:
        assert len(entry.seconds.values) == 2
        assert entry.seconds.minimum > 0


def test_figures_follow_from_the_measurements(record):
    alone, _, two = record.entries
    assert alone.ratio == 1
    assert two.tokens_per_s == pytest.approx(128 / two.seconds.median)
    assert two.ratio == pytest.approx(alone.seconds.median / two.seconds.median)
    rounds = zip(alone.seconds.values, two.seconds.values, strict=True)
    assert two.paired.values == pytest.approx([one / other for one, other in rounds])


def test_entries_say_what_they_are(record):
    assert [(entry.processes, entry.threads, entry.deterministic) for entry in record.entries] == [
        (1, 1, True),
        (1, 1, False),
        (2, 1, True),
    ]
    assert record.entries[2].layout.startswith("2 ranks = pp 1 x dp 2")
    assert [(way.name, way.processes, way.bytes) for way in record.sums] == [
        ("tree order", 2, 1 << 20),
        ("the backend's own", 2, 1 << 20),
    ]


def test_all_took_the_same_step(record):
    """Data parallelism sums micro-batches in the same tree as one process does: the same bits."""
    assert len({entry.loss for entry in record.entries}) == 1


def test_the_record_says_where_and_how(record):
    assert (record.kind, record.schema, record.data) == ("scaling", 1, "")
    assert record.origin.command.startswith("homegrown bench scaling --config")
    assert record.origin.device["type"] == "cpu"
    assert record.config["precision"] == "float32"
    assert record.config["data"]["micro_batch"] == 2


def test_what_is_shown(record):
    assert table(record).row_count == 3
    text = summary(record)
    assert "sum of 1 MiB over 2 processes, tree order: " in text
    assert "same function" in text


# Without processes


def test_cases_cut_a_step_alike():
    made = cases(plan_of(layouts=("dp", "ep", "cp", "tp", "pp")), CPU)
    names = [case.name for case in made]
    assert names[:3] == ["1 process, 1 thread", "1 process, 2 threads", "1 process, not deterministic"]
    assert names[3:] == [f"2 processes, {name} 2" for name in ("dp", "ep", "cp", "tp", "pp")]
    assert {case.config.data.micro_batch for case in made} == {2}
    assert [case.config.threads for case in made] == [1, 2] + [1] * 6
    assert turns(plan_of(layouts=()), CPU) == 4 + 4 * 3


def test_what_cannot_be_shared_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match="no layout 'xp'; there are: dp, ep"):
        cases(plan_of(layouts=("xp",)), CPU)
    with pytest.raises(ConfigError, match=r"data\.global_batch = 4: must be a multiple of the 3 processes"):
        run_scaling(plan_of(processes=3), CPU)
    with pytest.raises(ConfigError, match="the model has only 2 layers"):
        run_scaling(plan_of(processes=4, layouts=("pp",)), CPU)


def test_a_run_is_as_long_as_the_measurement():
    assert cases(plan_of(steps=100), CPU)[0].config.steps == 300


def test_made_up_rows_belong_to_one_batch():
    whole, half = (_made_up(CONFIG, 3, rows) for rows in (slice(None), slice(2, 4)))
    assert whole.tokens.shape == (4, 33)
    assert (whole.tokens[2:] == half.tokens).all()
    assert whole.tokens.min() >= SPECIAL
    assert whole.tokens.max() < CONFIG.model.vocab_size


def test_other_losses_are_refused():
    refuse_other_losses({"one": 2.0, "two": 2.01})
    with pytest.raises(MismatchError, match="two begins with a loss of"):
        refuse_other_losses({"one": 2.0, "two": 2.1})
    with pytest.raises(MismatchError):
        refuse_other_losses({"one": 2.0, "two": float("nan")})


def test_nonsense_is_refused():
    with pytest.raises(UsageError, match="--processes 1: must be at least 2"):
        bench.run(["scaling", "--processes", "1"])
    with pytest.raises(UsageError, match="--repetitions 0: must be at least 1"):
        bench.run(["scaling", "--repetitions", "0"])


# A crew


def echo(world, greeting):
    """Orders come back; some are refused."""

    def task(order):
        if order == "fail":
            raise ValueError("no such order")
        if order == "die" and world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if order in ("die", "sleep"):
            time.sleep(60)
        return f"{greeting} {world.rank} of {world.size}: {order}"

    return task


def crew_of(greeting="hello", **changes):
    return Crew("two", 2, echo, greeting, **{"device": "cpu", "timeout_s": 30.0, **changes})


def test_a_crew_works_until_it_is_sent_home():
    crew = crew_of()
    assert crew.ask("a") == ["hello 0 of 2: a", "hello 1 of 2: a"]
    assert crew.ask("b") == ["hello 0 of 2: b", "hello 1 of 2: b"]
    crew.close()  # raises unless all of them end as programs do
    assert [process.exitcode for process in crew._processes] == [0, 0]


@pytest.mark.parametrize(
    ("order", "message"),
    [("fail", "two: rank . failed:(.|\n)*ValueError: no such order"), ("die", "two: rank 1 died with exit code -9")],
)
def test_what_goes_wrong_in_a_crew_ends_it(order, message):
    crew = crew_of()
    with pytest.raises(CrewError, match=message):
        crew.ask(order)
    assert not any(process.is_alive() for process in crew._processes)


def test_a_crew_that_does_not_answer_is_ended():
    crew = crew_of()
    crew._timeout_s = 0.2
    with pytest.raises(CrewError, match=r"two: ranks \[0, 1\] gave no answer in 0.2 s"):
        crew.ask("sleep")
    assert not any(process.is_alive() for process in crew._processes)

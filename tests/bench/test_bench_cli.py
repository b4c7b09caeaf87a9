import json

import pytest

from homegrown.bench import shapes
from homegrown.cli import bench
from homegrown.config import UsageError

from .test_bench_train import MICRO, no_peak


@pytest.fixture
def micro(monkeypatch, tmp_path):
    """The real command on a shape that takes no time, in an empty folder."""
    monkeypatch.setitem(shapes.SHAPES, "tiny", lambda: MICRO)
    monkeypatch.setattr("homegrown.device.measure_peak", no_peak)
    # This process goes on to run other tests: its allocator and its threads stay as they are.
    monkeypatch.setattr("homegrown.device.keep_host_memory", lambda: False)
    monkeypatch.setattr("homegrown.device.set_threads", lambda count: 1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_writes_a_dated_record_and_says_where(micro, capsys):
    assert bench.run(["train", "--no-peer", "--repetitions", "2", "--warmup", "0", "--seq-len", "8"]) == 0
    (path,) = (micro / "benchmarks").glob("*-train-micro.json")
    data = json.loads(path.read_text())
    assert data["shape"]["seq_len"] == 8
    assert data["origin"]["command"].startswith("homegrown bench train --no-peer --repetitions 2")
    assert f"record: {path.relative_to(micro)}" in capsys.readouterr().out


def test_out_names_the_file(micro):
    assert bench.run(["train", "--no-peer", "--repetitions", "1", "--warmup", "0", "--out", "here.json"]) == 0
    assert json.loads((micro / "here.json").read_text())["kind"] == "train"


def test_nonsense_is_refused():
    with pytest.raises(UsageError, match="no benchmark 'trane'; there are: train"):
        bench.run(["trane"])
    with pytest.raises(UsageError, match="at least one repetition"):
        bench.run(["train", "--repetitions", "0"])


def test_help_lists_the_benchmarks(capsys):
    assert bench.run([]) == bench.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "train    one training step against" in shown
    assert "scaling  a small run's step" in shown

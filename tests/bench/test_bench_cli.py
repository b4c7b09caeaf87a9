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


@pytest.fixture
def quick_limits(monkeypatch):
    monkeypatch.setattr("homegrown.bench.speed.limits.BUFFER", 1 << 16)
    monkeypatch.setattr("homegrown.bench.speed.limits.read_bandwidth", lambda data, seconds: 1e9)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["prefill", "--tokens", "5", "--precisions", "float32"], "prefill"),
        (["decode", "--context", "5", "--batch", "1", "2", "--steps", "2"], "decode"),
        (["kernels", "--tokens", "4", "--ops", "swiglu", "linear"], "kernels"),
    ],
)
def test_speed_benchmarks_write_records_and_compare_with_the_last(micro, quick_limits, capsys, arguments, kind):
    peer = [] if kind == "kernels" else ["--no-peer"]
    command = [*arguments, *peer, "--repetitions", "1", "--warmup", "0", "--against", "last"]
    assert bench.run([*command, "--out", "benchmarks/first.json"]) == 0
    assert "has no earlier record" in capsys.readouterr().out
    assert bench.run(command) in (0, 1)  # by the weather
    assert "against benchmarks/first.json" in capsys.readouterr().out
    (path,) = (micro / "benchmarks").glob(f"*-{kind}-tiny.json")
    assert json.loads(path.read_text())["origin"]["command"].startswith(f"homegrown bench {kind}")


def test_a_long_prompt_is_read_on_the_sparse_shape(micro, quick_limits):
    arguments = ["prefill", "--long", "--tokens", "20", "40", "--precisions", "float32", "--chunk", "16"]
    assert bench.run([*arguments, "--out", "long.json"]) == 0
    data = json.loads((micro / "long.json").read_text())
    assert (data["kind"], data["shape"]["name"], len(data["entries"])) == ("prefill-long", "sparse", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prefill", "--tokens", "0"], "--tokens 0: must be at least 1"),
        (["prefill", "--chunk", "0"], "--chunk 0: must be at least 1"),
        (["decode", "--batch", "0"], "--batch 0: must be at least 1"),
        (["decode", "--most-keys", "5"], "--most-keys 5 leaves no case"),
        (["kernels", "--repetitions", "0"], "at least one repetition"),
        (["load", "--warmup", "-1"], "no fewer than zero rounds"),
    ],
)
def test_nonsense_in_speed_benchmarks_is_refused(micro, arguments, message):
    with pytest.raises(UsageError, match=message):
        bench.run(arguments)


@pytest.mark.parametrize("name", sorted(bench.BENCHMARKS))
def test_every_benchmark_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as end:
        bench.run([name, "--help"])
    assert end.value.code == 0
    assert f"homegrown bench {name}" in capsys.readouterr().out

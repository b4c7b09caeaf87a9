"""Starting and loading: real processes, a model of no size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from homegrown import hub
from homegrown.bench.record import write
from homegrown.bench.speed import loading
from homegrown.bench.speed.loader import weight_files
from homegrown.bench.speed.loading import LoadPlan, count_load, run_load
from homegrown.bench.speed.record import OURS, read_speed
from homegrown.bench.speed.show import summary, table
from homegrown.config import UserError

from .test_bench_train import MICRO
from .test_speed import micro_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("load") / "model"
    hub.save(micro_model(), None, path, layout="transformers")
    return path


def test_a_round_of_everything(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "STARTS", {name: loading.STARTS[name] for name in ("python", "import homegrown")})
    plan = LoadPlan(model=folder, peer=False, repetitions=1, warmup=0)
    labels = []
    record = run_load(plan, ["bench", "load"], labels.append)
    assert len(labels) == count_load(plan)
    write(record, tmp_path / "record.json")
    assert read_speed(tmp_path / "record.json") == record
    entries = {(entry.case, entry.implementation): entry for entry in record.entries}
    assert set(entries) == {
        ("python", OURS), ("import homegrown", OURS), ("load in memory", OURS), ("load from disk", OURS),
    }  # fmt: skip
    size = sum(path.stat().st_size for path in weight_files(folder))
    assert entries["load in memory", OURS].sizes == {"bytes": size}
    assert entries["load in memory", OURS].extra["peak_over_weights"] >= 0
    assert record.limits["map in memory"].median > 0
    assert record.shape["model"]["hidden_size"] == MICRO.model.hidden_size
    assert table(record).row_count >= 4
    assert "each byte once" in summary(record)


def test_a_random_model_is_written_and_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(loading.config_of.__globals__["SHAPES"], "micro", lambda: MICRO)
    with loading._directory(LoadPlan(shape="micro")) as place:
        assert weight_files(place)
    assert not list(tmp_path.iterdir())


def test_a_process_that_fails_is_told_of(folder):
    with pytest.raises(UserError, match=r"ended with status 1.*no-such-place"):
        loading._run(["-m", "homegrown.bench.speed.loader", OURS, str(folder / "no-such-place"), "1"])


def test_the_command_line_needs_no_torch():
    """What keeps the help page quick: neither the package nor the list of commands imports it."""
    code = "import sys, homegrown.cli.main, homegrown.cli.bench; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_the_peer_loads_it_too(folder):
    pytest.importorskip("transformers")
    figures = json.loads(loading._run(["-m", "homegrown.bench.speed.loader", "transformers", str(Path(folder)), "1"]))
    assert figures["seconds"] > 0
    assert figures["peak_bytes"] >= figures["before_bytes"] > 0

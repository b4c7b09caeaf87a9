"""A run that is stopped and started again is the run that was never stopped; what may change then, and what not."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from homegrown.cli.main import main
from homegrown.config import TrainConfig, build, read_toml, to_toml
from homegrown.ledger import Ledger, read_metrics
from homegrown.train.callbacks import Checkpoints, MetricsLog
from homegrown.train.checkpoint import CheckpointError, saved_steps
from homegrown.train.run import Run, open_run
from homegrown.train.trainer import Callback, Measured, train

from . import tiny


def elsewhere(run_file: Path, straight: Path, folder: Path) -> Path:
    """The config file of the same run in another directory."""
    folder.mkdir(exist_ok=True)
    file = folder / "run.toml"
    file.write_text(run_file.read_text().replace(str(straight), str(folder / "run")))
    return file


@pytest.fixture
def finished(run_file: Path, straight: Path, tmp_path: Path) -> Path:
    """Config file of a copy of the finished run, to be changed at will."""
    file = elsewhere(run_file, straight, tmp_path)
    shutil.copytree(straight, tmp_path / "run")
    (tmp_path / "run" / "config.toml").write_text(file.read_text())
    return file


def events(run: Path, name: str) -> list[dict]:
    lines = read_metrics(run / "metrics.jsonl")
    return [line["detail"] for line in lines if line["kind"] == "event" and line["event"] == name]


def payloads(run: Path, kind: str) -> list[dict]:
    return [record.payload for record in Ledger.read(run / "ledger.jsonl") if record.kind == kind]


def command_line(file: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "homegrown", "train", str(file), *flags]


def interrupted(file: Path, run: Path, number: signal.Signals, at_step: int) -> subprocess.CompletedProcess[str]:
    """The command, sent a signal once metrics.jsonl tells of a step."""
    process = subprocess.Popen(command_line(file), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    mark, metrics = f'{{"kind":"train","step":{at_step},'.encode(), run / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and mark in metrics.read_bytes()):
        time.sleep(0.002)
    process.send_signal(number)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "at_step"), [(signal.SIGTERM, 2), (signal.SIGINT, 9)])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(run_file, straight, tmp_path, number, at_step):
    """Losses of all steps, scores, samples, final weights, optimizer state and controllers: the same bits."""
    file, run = elsewhere(run_file, straight, tmp_path), tmp_path / "run"
    stopped = interrupted(file, run, number, at_step)
    assert stopped.returncode == 128 + number, stopped.stderr
    assert "saved. Run again to resume." in stopped.stderr
    step = saved_steps(run / "checkpoints")[-1]
    assert at_step <= step < 24
    assert events(run, "signal") == [{"number": number}]
    assert not (run / "export").exists()

    resumed = subprocess.run(command_line(file), capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed at step {step}" in resumed.stderr
    assert events(run, "resume") == [{"step": step, "damaged": []}]
    assert tiny.final_state(run, 24) == tiny.final_state(straight, 24)
    assert tiny.story(run) == tiny.story(straight)
    records = Ledger.read(run / "ledger.jsonl")
    losses = [record.payload["loss"] for record in records if record.kind == "step"]
    assert losses == [
        record.payload["loss"] for record in Ledger.read(straight / "ledger.jsonl") if record.kind == "step"
    ]
    signals = [record.payload for record in records if record.kind == "signal"]
    assert signals == [{"step": step, "number": number}]


def test_every_step_has_one_line(straight):
    lines = tiny.story(straight, ("train",))
    assert [line["step"] for line in lines] == list(range(1, 25))


def test_more_steps_go_on_from_the_end(finished, straight):
    """Under another cadence of checkpoints, and another number of them."""
    run = finished.parent / "run"
    flags = ["--steps", "27", "--checkpoint.every-steps", "2", "--checkpoint.keep", "3", "--log-every", "2"]
    assert main(["train", str(finished), *flags]) == 0
    assert saved_steps(run / "checkpoints") == [24, 26, 27]
    assert events(run, "resume") == [{"step": 24, "damaged": []}]
    assert [line["step"] for line in tiny.story(run, ("train",))] == [*range(1, 25), 26, 27]
    recorded = build(TrainConfig, read_toml(run / "config.toml"), "recorded")
    assert (recorded.steps, recorded.checkpoint.keep) == (27, 3)


def test_a_damaged_checkpoint_is_named_and_the_one_before_leads_to_the_same_end(finished, straight, capfd):
    run = finished.parent / "run"
    state = run / "checkpoints" / "step-00000024" / "rank-00000" / "__0_0.distcp"
    state.write_bytes(state.read_bytes()[:-100])
    assert main(["train", str(finished)]) == 0
    shown = "".join(capfd.readouterr().err.split())
    assert "passedoveradamagedcheckpoint" in shown
    assert str(state) in shown
    assert events(run, "resume")[0]["step"] == 20
    assert tiny.final_state(run, 24) == tiny.final_state(straight, 24)
    assert tiny.story(run) == tiny.story(straight)


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        (["--model.moe-topk", "2"], "model.moe_topk = 2 (recorded: 3)"),
        (["--model.mtp.steps", "1"], "model.mtp.steps = 1 (recorded: 2)"),
        (["--optim.muon-lr", "0.5"], "optim.muon_lr = 0.5 (recorded: 0.02)"),
        (["--seed", "7"], "seed = 7 (recorded: 0)"),
        (["--data.seq-len", "16"], "data.seq_len = 16 (recorded: 32)"),
    ],
)
def test_another_run_in_the_same_directory_is_refused(run_file, straight, capfd, flags, key):
    before = {path: path.read_bytes() for path in straight.rglob("*") if path.is_file()}
    assert main(["train", str(run_file), *flags]) == 2
    message = capfd.readouterr().err
    assert key in message
    assert str(straight) in message
    assert {path: path.read_bytes() for path in straight.rglob("*") if path.is_file()} == before


def test_all_that_differs_is_named(run_file, capfd, straight):
    assert main(["train", str(run_file), "--seed", "1", "--model.moe-topk", "2", "--loss.z", "0.1"]) == 2
    message = capfd.readouterr().err
    for key in ("seed = 1", "model.moe_topk = 2", "loss.z = 0.1"):
        assert key in message


def test_changed_data_is_refused(finished, dataset, capfd):
    """Another corpus in the same place, as long as the old one and from the same tokenizer's training settings."""
    run, moved = finished.parent / "run", finished.parent / "data"
    config = tiny.replaced(build(TrainConfig, read_toml(finished), "test"), data__path=moved)
    finished.write_text(to_toml(config))
    (run / "config.toml").write_text(to_toml(config))
    tiny.write_tokens(tiny.write_corpus(finished.parent / "corpus", seed=1), moved)
    assert main(["train", str(finished), "--steps", "25"]) != 0
    message = capfd.readouterr().err
    assert str(moved) in message
    assert "fingerprint" in message
    assert dataset.fingerprint[:12] in message
    assert saved_steps(run / "checkpoints")[-1] == 24


def test_two_processes_cannot_write_one_run(finished, capfd):
    with Ledger.open(finished.parent / "run" / "ledger.jsonl"):
        assert main(["train", str(finished), "--steps", "25"]) != 0
    assert "ledger.jsonl" in capfd.readouterr().err


class SmallDisk(Callback):
    """No file may grow beyond 100 kB until some step is done."""

    def __init__(self, until: int) -> None:
        self.until = until
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_start(self, run: Run) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, self.limits[1]))

    def on_step(self, run: Run, measured: Measured) -> None:
        if run.step == self.until:
            run.settle(wait=True)
            self.lift()

    def lift(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


def test_a_full_disk_is_an_event_and_the_run_goes_on(dataset, tmp_path):
    """Checkpoints after steps 2, 4 and 6, the first on a full disk."""
    run = open_run(tiny.train_config(dataset.path, tmp_path / "run"))
    shown, disk = Console(record=True), SmallDisk(until=3)
    try:
        assert train(run, [MetricsLog(), Checkpoints(shown), disk]).finished
    finally:
        disk.lift()
        run.close()
    [failed] = events(tmp_path / "run", "checkpoint_failed")
    assert failed["step"] == 2
    assert "File too large" in failed["error"]
    assert payloads(tmp_path / "run", "fault")[0]["fault"] == "checkpoint"
    assert events(tmp_path / "run", "checkpoint") == [{"step": 4}, {"step": 6}]
    assert saved_steps(tmp_path / "run" / "checkpoints") == [4, 6]


def test_a_run_whose_last_checkpoint_fails_does_not_end_well(dataset, tmp_path):
    run = open_run(tiny.train_config(dataset.path, tmp_path / "run", steps=2))
    disk = SmallDisk(until=99)
    try:
        with pytest.raises(CheckpointError, match=r"the last checkpoint of .* could not be written: .*File too large"):
            train(run, [MetricsLog(), disk, Checkpoints(Console())])
    finally:
        disk.lift()
        run.close()

"""What `homegrown verify` says of runs that agree, of runs that do not, and of records that were touched."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from homegrown.cli.main import main
from homegrown.ledger import Ledger
from homegrown.train.verify import VerifyError, compare, expectation, read_story, same_bits

LAYOUTS = {
    "alone": "1 ranks = pp 1 x dp 1 x cp 1 x tp 1, ep 1, embp 1",
    "data": "4 ranks = pp 1 x dp 4 x cp 1 x tp 1, ep 1, embp 4",
    "tensor": "4 ranks = pp 1 x dp 2 x cp 1 x tp 2, ep 1, embp 4",
    "interleaved": "2 ranks = pp 2 x dp 1 x cp 1 x tp 1, ep 1, embp 1, 2 parts a stage",
}


def write_run(path: Path, losses: list[float], layout: str = "alone", **changes: Any) -> Path:
    """A run's record by hand: losses by step, gradient norms of one; digests of every second step."""
    with Ledger.create(path / "ledger.jsonl", sync=False) as ledger:
        environment = {"layout": LAYOUTS[layout], "torch": "2", **changes.pop("environment", {})}
        config = {"seed": 0, "run": str(path), "model": {"hidden_size": 32}, **changes.pop("config", {})}
        ledger.append("start", step=0, config=config, environment=environment, data_fingerprint="f")
        for step, loss in enumerate(losses, start=1):
            write_step(ledger, step, loss, **changes)
    return path


def write_step(ledger: Ledger, step: int, loss: float, norm: float = 1.0, state: str = "", data: str = "d") -> None:
    ledger.append("step", step=step, loss=loss.hex(), grad_norm=norm.hex(), skipped=False)
    if step % 2 == 0:
        ledger.append("digest", step=step, state=state or f"s{step}", data=f"{data}{step}")


class TestCompare:
    @pytest.fixture
    def one(self, tmp_path):
        return write_run(tmp_path / "one", [3.0, 2.5, 2.0, 1.5])

    def test_the_same(self, one, tmp_path):
        other = write_run(tmp_path / "other", [3.0, 2.5, 2.0], "data")
        result = compare(read_story(one), read_story(other))
        assert result.first is None and result.agreed == 3
        assert result.compared == {"data digest": 1, "loss": 3, "grad norm": 3, "skipped": 3, "state digest": 1}

    def test_first_difference(self, one, tmp_path):
        other = write_run(tmp_path / "other", [3.0, 2.5, 2.0 + 2**-50, 1.4])
        result = compare(read_story(one), read_story(other))
        assert result.first is not None
        assert (result.first.step, result.first.quantity, result.agreed) == (3, "loss", 2)
        assert "2 (0x1.0000000000000p+1) against 2 (0x1.0000000000002p+1)" in str(result.first)
        assert result.largest[1:] == (4, "loss") and result.largest[0] == pytest.approx(0.1 / 1.4)

    @pytest.mark.parametrize(
        ("changes", "step", "quantity"),
        [({"data": "e"}, 2, "data digest"), ({"norm": 1.5}, 1, "grad norm"), ({"state": "t"}, 2, "state digest")],
    )
    def test_quantities_in_the_order_of_a_step(self, one, tmp_path, changes, step, quantity):
        other = write_run(tmp_path / "other", [3.0, 2.5, 2.0, 1.5], **changes)
        first = compare(read_story(one), read_story(other)).first
        assert first is not None and (first.step, first.quantity) == (step, quantity)

    def test_within_rounding(self, one, tmp_path):
        other = read_story(write_run(tmp_path / "other", [3.0, 2.5 * (1 + 1e-5), 2.0, 1.5], "tensor", state="t"))
        assert compare(read_story(one), other, within=1e-4).first is None
        first = compare(read_story(one), other, within=1e-6).first
        assert first is not None and (first.step, first.quantity) == (2, "loss")
        more = read_story(write_run(tmp_path / "more", [3.0, 2.5, 2.0, 1.5], "tensor", data="e"))
        first = compare(read_story(one), more, within=1e-4).first
        assert first is not None and first.quantity == "data digest", "no layout changes the data"

    def test_numbers_that_are_none(self, one, tmp_path):
        nan = float("nan")
        stories = [read_story(write_run(tmp_path / name, [3.0, nan])) for name in ("two", "three")]
        assert compare(*stories).first is None
        result = compare(read_story(one), stories[0], within=0.5)
        assert result.first is not None and result.largest[0] == float("inf")

    def test_nothing_in_common(self, one, tmp_path):
        with pytest.raises(VerifyError, match="no step in common"):
            compare(read_story(one), read_story(write_run(tmp_path / "other", [])))


class TestExpectation:
    @pytest.mark.parametrize(
        ("one", "other", "bitwise", "why"),
        [
            ("alone", "alone", True, "the same layout"),
            ("alone", "data", True, "data parallelism alone"),
            ("data", "tensor", False, "differ in dp, tp"),
            ("alone", "interleaved", False, "differ in pp, parts"),
        ],
    )
    def test_layouts(self, one, other, bitwise, why):
        told = same_bits(LAYOUTS[one], LAYOUTS[other])
        assert told[0] is bitwise and why in told[1]

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"config": {"seed": 1}}, "seed = 0 against 1: not the same run"),
            ({"config": {"model": {"hidden_size": 64}}}, "model.hidden_size = 32 against 64"),
            ({"environment": {"torch": "3"}}, "PyTorch 2 against 3"),
        ],
    )
    def test_other_runs(self, tmp_path, changes, why):
        stories = [
            read_story(write_run(tmp_path / "one", [1.0])),
            read_story(write_run(tmp_path / "two", [1.0], **changes)),
        ]
        bitwise, told = expectation(*stories)
        assert not bitwise and why in told


class TestResumed:
    @pytest.mark.parametrize(("loss", "differs"), [(2.0, False), (2.25, True)])
    def test_steps_done_again(self, tmp_path, loss, differs):
        path = write_run(tmp_path / "run", [3.0, 2.5, 2.0])
        self.resume(path, "alone", loss)
        story = read_story(path)
        assert story.again == [3] and sorted(story.steps) == [1, 2, 3, 4]
        assert bool(story.differently) is differs
        assert float.fromhex(story.steps[3]["loss"]) == loss, "the last time counts"

    def test_in_a_layout_of_other_bits(self, tmp_path):
        path = write_run(tmp_path / "run", [3.0, 2.5, 2.0])
        self.resume(path, "tensor", 2.25)
        story = read_story(path)
        assert story.again == [] and story.differently == []

    def resume(self, path, layout, loss):
        with Ledger.open(path / "ledger.jsonl", sync=False) as ledger:
            ledger.append("resume", step=2, config={}, environment={"layout": LAYOUTS[layout]}, data_fingerprint="f")
            for step, value in ((3, loss), (4, 1.0)):
                write_step(ledger, step, value)


class TestCommand:
    def test_a_run_by_itself(self, digested, digested_again, capsys):
        assert main(["verify", str(digested)]) == 0
        assert "the chain is whole; steps 1 to 5, 3 with digests" in capsys.readouterr().out
        assert main(["verify", str(digested_again)]) == 0

    def test_a_resumed_run_against_a_straight_one(self, digested, digested_again, capsys):
        assert main(["verify", str(digested), "--against", str(digested_again)]) == 0
        out = capsys.readouterr().out
        assert "the same layout: to agree bit for bit" in out
        assert "5 steps agree bit for bit (3 data digest, 5 loss, 5 grad norm, 5 skipped, 3 state digest)" in out

    def test_another_run(self, digested, tmp_path, capsys):
        other = write_run(tmp_path / "other", [3.0, 2.5])
        assert main(["verify", str(digested), "--against", str(other)]) == 1
        out = capsys.readouterr().out
        assert (
            "not the same run" in out and "first difference after 0 steps that agree bit for bit: step 1, loss" in out
        )
        assert "--within 1e-4" in out

    def test_a_touched_record(self, digested, tmp_path, capsys):
        text = (digested / "ledger.jsonl").read_text()
        (tmp_path / "ledger.jsonl").write_text(text.replace('"skipped":false', '"skipped":true', 1))
        assert main(["verify", str(tmp_path)]) == 1
        err = capsys.readouterr().err
        assert "line 3" in err and "changed after it was written" in err

    def test_replay(self, digested, capsys):
        before = sorted(path for path in digested.rglob("*"))
        assert main(["verify", str(digested), "--replay", "9"]) == 0
        told = "2 steps agree bit for bit (2 data digest, 2 loss, 2 grad norm, 2 skipped, 2 state digest)"
        assert told in capsys.readouterr().out
        assert sorted(path for path in digested.rglob("*")) == before
        assert [path.name for path in digested.parent.iterdir() if path.name.startswith(".")] == []

    def test_replay_finds_what_was_otherwise(self, digested, tmp_path, capsys):
        """A record that tells of another loss, its chain made anew."""
        other = tmp_path / "run"
        shutil.copytree(digested, other)
        records = Ledger.read(other / "ledger.jsonl")
        (other / "ledger.jsonl").unlink()
        with Ledger.create(other / "ledger.jsonl", sync=False) as ledger:
            for record in records:
                payload = dict(record.payload)
                if record.kind == "step" and payload["step"] == 5:
                    payload["loss"] = (float.fromhex(payload["loss"]) + 1e-6).hex()
                ledger.append(record.kind, **payload)
        assert main(["verify", str(other), "--replay", "1"]) == 0, "step 4 is as it was"
        assert main(["verify", str(other), "--replay", "2"]) == 1
        assert "first difference after 1 steps that agree bit for bit: step 5, loss" in capsys.readouterr().out

    def test_nothing_to_replay(self, tmp_path, capsys):
        run = write_run(tmp_path / "run", [1.0])
        assert main(["verify", str(run), "--replay", "1"]) == 1
        assert "no checkpoint with recorded steps behind it" in capsys.readouterr().err

    def test_no_run(self, tmp_path, capsys):
        assert main(["verify", str(tmp_path / "none")]) == 1
        assert "none/ledger.jsonl" in capsys.readouterr().err

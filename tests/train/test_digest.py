"""Digests say the same of the same state and data, however they are spread, and something else of anything else."""

from __future__ import annotations

import pytest
import torch

from homegrown.config import ConfigError, ParallelConfig, TrainConfig
from homegrown.ledger import Ledger
from homegrown.parallel.groups import ALONE
from homegrown.parallel.world import World
from homegrown.train.digest import digest, rows_digest
from homegrown.train.run import Workbench

from . import corrupted

HERE = World(0, 1, 0, torch.device("cpu"))


class TestDigest:
    def test_order_and_memory_do_not_matter(self):
        one = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(4)}
        two = {"b": torch.tensor(4), "a": torch.arange(6.0).view(3, 2).T.contiguous().T.reshape(2, 3)}
        assert digest(one, ALONE) == digest(two, ALONE)
        assert len(digest(one, ALONE)) == 64

    def test_everything_else_does(self):
        tensor = torch.arange(6.0)
        flipped = corrupted.flipped(tensor, bit=0)
        others = [
            {"b": tensor}, {"a": tensor.view(2, 3)}, {"a": tensor.view(torch.int32)}, {"a": flipped},
            {"a": tensor, "c": tensor}, {"a": tensor[:5]}, {},
        ]  # fmt: skip
        assert len({digest(tensors, ALONE) for tensors in ({"a": tensor}, *others)}) == 1 + len(others)

    def test_large_tensors_are_hashed_in_slices(self, monkeypatch):
        tensors = {"a": torch.randn(1000, dtype=torch.bfloat16)}
        whole = digest(tensors, ALONE)
        monkeypatch.setattr("homegrown.train.digest._SLICE", 64)
        assert digest(tensors, ALONE) == whole

    def test_period(self):
        with pytest.raises(ConfigError, match="digest_every = -1"):
            TrainConfig(digest_every=-1)


class TestLayouts:
    @pytest.fixture
    def alone(self, dataset):
        bench = Workbench(corrupted.config_of(dataset.path, ParallelConfig()), HERE)
        fresh = digest(bench.stepper.owned(), bench.groups["world"])
        bench.stepper.step(1, bench.batch(0))
        return {
            "fresh": fresh,
            "state": digest(bench.stepper.owned(), bench.groups["world"]),
            "data": [rows_digest(bench, step) for step in range(2)],
        }

    def test_two_processes(self, alone, pair):
        self.same(alone, pair)

    @pytest.mark.slow
    def test_four_processes(self, alone, four):
        self.same(alone, four)

    def same(self, alone, told):
        """Data parallelism does not show; other layouts begin alike and see the same data."""
        for part in told:
            assert part["digests"]["state"] == alone["state"]
            assert part["digests"]["data"] == alone["data"]
            assert part["digests"]["tensor, data"] == alone["data"][1]
            assert part["digests"]["tensor, fresh"] == alone["fresh"]
        assert alone["data"][0] != alone["data"][1]


def test_record(digested, digested_again):
    """Every second step and the last one; a run that was stopped and resumed has the same."""
    records = [[record.payload for record in Ledger.read(run / "ledger.jsonl") if record.kind == "digest"]
               for run in (digested, digested_again)]  # fmt: skip
    assert [payload["step"] for payload in records[0]] == [2, 4, 5]
    assert {payload["step"]: payload for payload in records[1]} == {payload["step"]: payload for payload in records[0]}

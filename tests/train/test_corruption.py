"""Wrong bits are found, the right rank is named, and nothing is found where nothing is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from homegrown import ops
from homegrown.cli.main import main
from homegrown.config import CheckConfig, ConfigError, ParallelConfig, TrainConfig, to_toml
from homegrown.ledger import Ledger
from homegrown.parallel.verdict import CORRUPT, verdicts
from homegrown.parallel.world import World
from homegrown.train.checkpoint import saved_steps
from homegrown.train.corruption import probe, replicas
from homegrown.train.corruption.fingerprint import fingerprint
from homegrown.train.corruption.products import MARGIN, matrix_excess, outer_excess, product_excess
from homegrown.train.corruption.replicas import _Wrong
from homegrown.train.run import Workbench

from . import corrupted, tiny

ALONE = World(0, 1, 0, torch.device("cpu"))
MATRIX = "layers.1.self_attn.0.q_b_proj.weight"
TWICE, COPIES = "a micro-batch computed twice", "copies of weights"
SAMPLE, PRODUCTS = "the same sample on all ranks", "checksums of matrix products"


def accused(told: list[dict[str, Any]], case: str) -> dict[int, tuple[str, str]]:
    """Ranks that a case accuses, with what speaks against them; all processes say the same."""
    assert {part[case]["error"] for part in told} == {told[0][case]["error"]}, "all ranks raise the same"
    assert told[0][case]["error"], f"nothing was found: {case}"
    suspects: dict[int, tuple[str, str]] = told[0][case]["suspects"]
    return suspects


class TestFingerprint:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
    @pytest.mark.parametrize("numbers", [1, 7, 1000, (1 << 17) + 3])
    def test_any_bit_shows(self, dtype, numbers):
        generator = torch.Generator().manual_seed(numbers)
        tensor = torch.randint(0, 2, (numbers,), generator=generator).to(dtype)
        own = fingerprint(tensor)
        for _ in range(20):
            other = tensor.clone()
            raw = other.view(torch.uint8)
            place = int(torch.randint(len(raw), (), generator=generator))
            raw[place] ^= 1 if dtype == torch.bool else 1 << int(torch.randint(8, (), generator=generator))
            assert fingerprint(other) != own

    def test_only_the_bits_count_and_all_of_them(self):
        tensor = torch.randn(300, 5, dtype=torch.bfloat16)
        assert fingerprint(tensor[3:7]) == fingerprint(tensor[3:7].clone()), "a view into memory of any alignment"
        assert fingerprint(tensor[:, 1:3]) == fingerprint(tensor[:, 1:3].contiguous())
        assert fingerprint(torch.zeros(3)) != fingerprint(-torch.zeros(3))
        assert fingerprint(torch.zeros(3)) != fingerprint(torch.zeros(4)), "the length is part of it"
        nan = torch.full((3,), torch.nan)
        assert fingerprint(nan) == fingerprint(nan.clone())

    def test_sparse_gradients_count_row_by_row(self):
        rows = torch.tensor([[3, 1, 3]])
        values = torch.tensor([[1.0], [2.0], [3.0]])
        one = torch.sparse_coo_tensor(rows, values, (5, 1), check_invariants=True)
        assert fingerprint(one) == fingerprint(one.coalesce())
        two = torch.sparse_coo_tensor(torch.tensor([[2, 1, 2]]), values, (5, 1), check_invariants=True)
        assert fingerprint(one) != fingerprint(two)


class TestHealthy:
    @pytest.mark.parametrize("layout", ["data", "tensor", "context", "experts", "pipeline"])
    def test_two_processes(self, pair, layout):
        self.same(pair, layout)

    @pytest.mark.slow
    @pytest.mark.parametrize("layout", ["tensor, data", "experts of four", "pipeline, context"])
    def test_four_processes(self, four, layout):
        self.same(four, layout)

    def same(self, told, layout):
        """Nothing is found, and no bit of the run is another: losses, norms, health, counts, state."""
        for part in told:
            without, checked = part["healthy"][layout]
            assert checked["error"] is None
            assert checked["steps"] == without["steps"]
            assert checked["digest"] == without["digest"]

    def test_products(self, pair):
        for part in pair:
            checked, without = part["products"], part["healthy"]["data"][0]
            assert checked["error"] is None
            assert checked["steps"] == without["steps"] and checked["digest"] == without["digest"]

    @pytest.mark.parametrize("changes", [{"recompute": "full"}, {"recompute": "selective"}, {"precision": "bfloat16"}])
    def test_alone(self, dataset, changes):
        config = corrupted.config_of(dataset.path, ParallelConfig(), rows=2, **changes)
        without = corrupted.trained(ALONE, config)
        checked = corrupted.trained(ALONE, tiny.replaced(config, check=CheckConfig(every=1, products=True)))
        assert checked["error"] is None and checked == without


class TestTransient:
    @pytest.mark.parametrize(
        ("case", "rank", "where"),
        [
            ("gradient, data", 1, f"gradient of {MATRIX} in micro-batch 0"),
            ("gradient, tensor", 1, "gradient of layers.0.mlps.0.gate_proj.weight in micro-batch 0"),
            ("op, tensor", 1, "output of swiglu"),
            ("op, pipeline", 1, "output of rms_norm"),
            ("op, context", 0, "output of linear"),
        ],
    )
    def test_two_processes(self, pair, case, rank, where):
        self.named(pair, case, rank, where)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("case", "rank", "where"),
        [("op, experts", 2, "output of experts"), ("op, pipeline, tensor", 3, "output of rotary")],
    )
    def test_four_processes(self, four, case, rank, where):
        self.named(four, case, rank, where)

    def named(self, told, case, rank, where):
        suspects = accused(told, case)
        assert list(suspects) == [rank], "others differ later in the flow of data"
        assert suspects[rank][0].startswith(where)
        assert told[0][case]["check"] == TWICE
        assert told[0][case]["steps"] == [], "found before the step was made"

    def test_micro_batches_take_turns(self, dataset):
        """Over some steps each of four micro-batches is the one."""
        twice = Workbench(corrupted.config_of(dataset.path, ParallelConfig(), check=corrupted.CHECKED), ALONE)
        assert twice.checks is not None
        chosen = {twice.checks._twice._choose(step, 4).start for step in range(1, 30)}
        assert chosen == {0, 1, 2, 3}


class TestCopies:
    def test_a_weight(self, pair):
        suspects = accused(pair, "weight")
        assert list(suspects) == [1]
        assert suspects[1] == (f"{MATRIX}@0:24", "has other bits than its owner, rank 0, and 1 of 2 holders have")
        assert pair[0]["weight"]["check"] == COPIES
        assert "rank 1 on " in pair[0]["weight"]["error"] and "at step 1" in pair[0]["weight"]["error"]

    @pytest.mark.slow
    def test_a_weight_among_four(self, four):
        suspects = accused(four, "weight")
        assert list(suspects) == [3] and suspects[3][0] == "norm.weight@0:32"

    def test_a_master(self, pair):
        suspects = accused(pair, "master")
        assert suspects == {0: (f"{MATRIX}@0:24", "has a master of other bits than all 2 copies of it")}

    def test_an_only_copy(self, pair):
        """Of a shard that one rank holds and another owns, the bits cannot tell who is wrong."""
        suspects = accused(pair, "weight, bfloat16")
        assert set(suspects) == {0, 1}
        assert "one of these ranks computes wrongly" in pair[0]["weight, bfloat16"]["error"]

    def test_rounded_weights_of_a_single_process(self, dataset):
        config = corrupted.config_of(dataset.path, ParallelConfig(), precision="bfloat16", check=corrupted.CHECKED)
        told = corrupted.trained(ALONE, config, between=corrupted.flip_weight(0, MATRIX))
        assert set(told["suspects"]) == {0} and told["check"] == COPIES

    def test_blame(self):
        wrong = _Wrong("w@0:4", 0, (0, 1, 2, 3))
        assert set(replicas._blamed(wrong, {2}, 0)) == {2}
        assert set(replicas._blamed(wrong, {1, 3}, 0)) == {1, 3}
        assert set(replicas._blamed(wrong, {0, 1, 2, 3}, 0)) == {0}
        assert set(replicas._blamed(_Wrong("w@0:4", 0, (2,)), {2}, 3)) == {2, 3}
        assert set(replicas._blamed(_Wrong("w@0:4", 0, (2,)), {2}, 2)) == {2}


class TestSample:
    @pytest.mark.slow
    def test_a_broken_core_among_four(self, four):
        suspects = accused(four, "core")
        assert suspects == {2: ("sample of attention", "has other bits than on 3 of 4 equal devices")}
        assert four[0]["core"]["check"] == SAMPLE

    @pytest.mark.slow
    def test_a_transient_one(self, four):
        assert list(accused(four, "transient in the sample")) == [1]

    def test_one_of_two(self, pair):
        assert set(accused(pair, "core")) == {0, 1}, "from the start, nobody can tell"
        assert set(accused(pair, "core, later")) == {1}, "what it gave at first was what the other gave"

    def test_votes(self):
        assert probe._outvoted({0: 5, 1: 5, 2: 7}, set()).keys() == {2}
        assert probe._outvoted({0: 5, 1: 5}, {0, 1}) == {}, "both changed alike"
        assert probe._outvoted({0: 5}, {0}).keys() == {0}
        assert probe._outvoted({0: 5, 1: 6}, {1}).keys() == {1}
        assert probe._outvoted({0: 5, 1: 6}, {0, 1}).keys() == {0, 1}
        assert probe._outvoted({0: 5, 1: 5, 2: 6, 3: 6}, set()).keys() == {0, 1, 2, 3}

    def test_every_op_is_in_it(self):
        examined = {sample.kernel for sample in probe.Probe(torch.device("cpu"), torch.float32, _alone())._samples}
        assert examined >= {*ops.OPS, "newton_schulz"}


class TestProducts:
    def test_a_wrong_product(self, pair):
        suspects = accused(pair, "wrong product")
        assert list(suspects) == [1] and pair[0]["wrong product"]["check"] == PRODUCTS

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("shape", [(8, 8, 8), (64, 300, 128), (1, 70, 5), (200, 3, 64)])
    def test_rounding_is_no_fault_and_a_flipped_exponent_is(self, dtype, shape):
        generator = torch.Generator().manual_seed(1)
        n, m, k = shape
        for positive in (False, True):
            a, b = (torch.randn(rows, k, generator=generator) for rows in (n, m))
            a, b = (tensor.abs() if positive else tensor for tensor in (a, b))
            a, b = a.to(dtype), b.to(dtype)
            y = a @ b.T
            assert float(matrix_excess(y, a, b)) < 0.5
            entry = int(torch.randint(y.numel(), (), generator=generator))
            y.view(-1)[entry] = y.view(-1)[entry] * 2.0**8 + y.abs().amax()
            assert float(matrix_excess(y, a, b)) > 1
        y.view(-1)[entry] = torch.inf
        assert float(matrix_excess(y, a, b)) == torch.inf

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_products_in_groups(self, dtype):
        generator = torch.Generator().manual_seed(2)
        ends = torch.tensor([5, 5, 40, 90], dtype=torch.int32)
        x, w = torch.randn(90, 32, generator=generator).to(dtype), torch.randn(4, 24, 32, generator=generator).to(dtype)
        y = ops.grouped_product(x, w, ends)
        assert float(product_excess(y, x, w, ends)) < 0.5
        outer = ops.grouped_outer(y, x, ends)
        assert float(outer_excess(outer, y, x, ends)) < 0.5
        for tensor in (y, outer):
            tensor.view(-1)[7] += 64 * tensor.abs().amax()
        assert float(product_excess(y, x, w, ends)) > 1
        assert float(outer_excess(outer, ops.grouped_product(x, w, ends), x, ends)) > 1

    def test_margin(self):
        assert MARGIN >= 4, "fewer standard deviations happen by themselves among the millions of sums of a step"


class TestRun:
    def test_a_fault_ends_the_run_before_its_checkpoint(self, pair):
        """Rank 1 went wrong in the second step, of which no checkpoint is left; rank 0 leaves the note about it."""
        assert all("rank 1 on " in part["run"]["error"] and part["run"]["step"] == 1 for part in pair)
        run: Path = pair[0]["folder"] / "run"
        assert saved_steps(run / "checkpoints") == [1]
        (verdict,) = verdicts(run, attempt=0)
        assert (verdict.rank, verdict.by) == (1, 0)
        assert "output of swiglu" in verdict.what
        fault = Ledger.read(run / "ledger.jsonl")[-1]
        assert fault.kind == "fault" and fault.payload["detail"]["suspects"].keys() == {"1"}

    def test_the_command(self, dataset, tmp_path, capsys):
        """`homegrown train` with a process that goes wrong after the first save, and again without."""
        config = corrupted.config_of(
            dataset.path, ParallelConfig(), rows=1, run=tmp_path / "run", steps=4, checkpoint__every_steps=2,
            eval__every_steps=0, eval__sample_every_steps=0, eval__sample_prompts=(),
        )  # fmt: skip
        config = tiny.replaced(config, check=CheckConfig(every=2))
        (tmp_path / "run.toml").write_text(to_toml(config))
        with _wrong_in_step(4):
            assert main(["train", str(tmp_path / "run.toml")]) == CORRUPT
        assert "silent data corruption at step 4 (a micro-batch computed twice): rank 0 on" in capsys.readouterr().err
        assert saved_steps(tmp_path / "run/checkpoints") == [2]
        assert json.loads((tmp_path / "run/faults/verdict-rank-0.json").read_text())["rank"] == 0
        assert main(["train", str(tmp_path / "run.toml")]) == 0, "the run goes on from the last sound state"
        assert saved_steps(tmp_path / "run/checkpoints") == [2, 4]

    def test_impossible_settings(self):
        with pytest.raises(ConfigError, match=r"check\.every"):
            CheckConfig(products=True)
        with pytest.raises(ConfigError, match=r"check\.every = -1"):
            CheckConfig(every=-1)
        with pytest.raises(ConfigError, match="deterministic = true"):
            TrainConfig(check=corrupted.CHECKED, deterministic=False)


def _alone() -> Any:
    from homegrown.parallel.groups import ALONE as group

    return group


@contextmanager
def _wrong_in_step(step: int) -> Iterator[None]:
    """In that step the loss comes out otherwise once."""
    calls = [0]
    begin = Workbench.batch

    def batch(bench: Workbench, number: int) -> Any:
        calls[0] = 1 if number == step - 1 else 0
        return begin(bench, number)

    def once(out: Tensor) -> Tensor:
        if calls[0] != 1:
            return out.detach()
        calls[0] = 2
        return torch.nextafter(out.detach(), torch.full_like(out, torch.inf))

    Workbench.batch = batch  # type: ignore[method-assign]
    try:
        with corrupted.broken_op("linear_cross_entropy", change=once):
            yield
    finally:
        Workbench.batch = begin  # type: ignore[method-assign]

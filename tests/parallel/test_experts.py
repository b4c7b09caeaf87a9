"""Expert parallelism on real processes against the local dispatcher, which has all experts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from homegrown.config import load_preset
from homegrown.model import Longcat
from homegrown.model.router import Experts, LocalDispatcher, MixtureOfExperts
from homegrown.parallel import trip
from homegrown.parallel.collectives import TRAFFIC, Pending, all_reduce, gather
from homegrown.parallel.experts import ExpertDispatcher, HierarchicalDispatcher, expert_dispatcher, imbalance
from homegrown.parallel.groups import ALONE, Group, Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.planned import Balance
from homegrown.parallel.routes import find_route
from tests.train import tiny

from .spawn import spawn

CONFIG = tiny.model_config(n_routed_experts=8, zero_expert_num=3, moe_topk=3)
E, Z, K, H = 8, 3, 3, CONFIG.hidden_size
TOKENS = 37
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 5e-2}


def four(**sizes: int) -> Layout:
    """Four processes of different tokens."""
    return Layout(dp=4, part_layers=(CONFIG.num_layers,), **sizes)


# Routings, one per process


def natural(rank: int) -> Tensor:
    return torch.rand(TOKENS + rank, E + Z, generator=seeded(50 + rank)).topk(K).indices


def one_expert(rank: int) -> Tensor:
    """Everybody's first choice is expert 5, the others are zero experts."""
    return torch.tensor([[5, E, E + 1]]).expand(TOKENS, K)


def idle(rank: int) -> Tensor:
    """Nobody chooses the second half of the experts: under ep 4, two processes get nothing."""
    number = natural(rank)
    return torch.where((number >= E // 2) & (number < E), number + E, number).clamp(max=E + Z)


def only_zero(rank: int) -> Tensor:
    return torch.rand(TOKENS, Z, generator=seeded(rank)).topk(K).indices + E


def one_sided(rank: int) -> Tensor:
    """Processes but the first choose zero experts only."""
    return natural(rank) if rank == 0 else only_zero(rank)


ROUTINGS = (natural, one_expert, idle, only_zero, one_sided)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def make_experts(dtype: torch.dtype, part: slice = slice(None)) -> Experts:
    experts = Experts(CONFIG)
    for seed, weight in enumerate(experts.parameters()):
        weight.data = (random(seed, *weight.shape) * 0.3).to(dtype)[part].clone()
    return experts


def share(groups: Groups) -> slice:
    layout, shape = groups.layout, (E, 2, 1, 1)
    shard = layout.shard("layers.0.mlp.experts.gate_up_proj", shape, groups.rank, CONFIG)
    return slice(shard.start, shard.stop)


def run(dispatcher: Any, experts: Experts, rank: int, index: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Output and all gradients of a random projection of it."""
    x = random(100 + rank, len(index), H, dtype=dtype).requires_grad_()
    wide = torch.promote_types(dtype, torch.float32)
    gate = random(200 + rank, len(index), K, dtype=wide).requires_grad_()
    out = dispatcher.receive(dispatcher.compute(dispatcher.send(x, index, gate), experts))
    (out * random(300 + rank, len(index), H, dtype=dtype)).sum().backward()
    return {
        "out": out.detach(), "x": x.grad, "gate": gate.grad,
        "w_in": experts.gate_up_proj.grad, "w_out": experts.down_proj.grad,
    }  # fmt: skip


def same(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return all(torch.equal(got[name], wanted[name]) for name in wanted)


def close(got: dict[str, Tensor], wanted: dict[str, Tensor], dtype: torch.dtype) -> None:
    for name, value in wanted.items():
        scale = float(value.abs().max().clamp(min=1e-30))
        error = float((got[name].double() - value.double()).abs().max()) / scale
        assert got[name].dtype == value.dtype
        assert error < TOLERANCE[dtype], f"{name}: {error}"


def reference(groups: Groups, index: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the local dispatcher gives; weight gradients summed over all processes, of the experts that are here."""
    result = run(LocalDispatcher(), make_experts(dtype), groups.rank, index, dtype)
    for name in ("w_in", "w_out"):
        result[name] = all_reduce(result[name], groups["world"])[share(groups)]
    return result


def spread(
    groups: Groups, index: Tensor, dtype: torch.dtype, dispatcher: ExpertDispatcher | HierarchicalDispatcher
) -> dict[str, Tensor]:
    result = run(dispatcher, make_experts(dtype, share(groups)), groups.rank, index, dtype)
    for name in ("w_in", "w_out"):
        result[name] = all_reduce(result[name], groups["expert_replicas"])
    return result


def distinct(index: Tensor, holder: Callable[[Tensor], Tensor]) -> list[set[int]]:
    """The different holders of each token's real experts."""
    return [{int(holder(number)) for number in row if number < E} for row in index]


def demand(groups: Groups, index: Tensor) -> Tensor:
    """Under ep 4: tokens of all processes that chose experts of each."""
    holders = distinct(index, lambda number: number // 2)
    here = torch.tensor([sum(rank in holder for holder in holders) for rank in range(4)])
    return gather(here, groups["ep"]).sum(0)


# Cases


def parity(world: Any) -> None:
    for ep in (1, 2, 4):
        groups = Groups(four(ep=ep), world.rank, 60)
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for routing in ROUTINGS:
                index = routing(world.rank)
                flat = spread(groups, index, dtype, ExpertDispatcher(groups["ep"], E))
                wanted = reference(groups, index, dtype)
                close(flat, wanted, dtype)
                if ep == 1:
                    assert same(flat, wanted), "alone, it is the local path bit for bit"
                at_once = spread(groups, index, dtype, ExpertDispatcher(groups["ep"], E, overlap=False))
                assert same(at_once, flat), "overlap changes no bit"
    kinds = [type(expert_dispatcher(Groups(four(ep=ep, pod=2), world.rank, 60), CONFIG)) for ep in (1, 2, 4)]
    assert kinds == [LocalDispatcher, ExpertDispatcher, HierarchicalDispatcher]


def traffic(world: Any) -> None:
    """A token travels once to each process it needs; zero experts never do."""
    groups = Groups(four(ep=4), world.rank, 60)
    index = natural(world.rank)
    dispatcher = ExpertDispatcher(groups["ep"], E)
    TRAFFIC.reset()
    run(dispatcher, make_experts(torch.float32, share(groups)), world.rank, index, torch.float32)
    holders = distinct(index, lambda number: number // 2)
    away = sum(len(holder - {world.rank}) for holder in holders)
    width = min(K, E // 4)
    row, card = 4 * H, 4 * width
    # Tokens with cards there, sums back; the sums' gradients there, tokens' and gates' back; and 4 · 8 bytes of counts.
    counts = 3 * 8
    came = sum(dispatcher.arrived) - sum(world.rank in holder for holder in holders)
    assert TRAFFIC.totals["all_to_all", "ep"][1] == away * (row + 2 * card + row) + came * (row + row + card) + counts

    all_arrivals = gather(torch.tensor(dispatcher.arrived), groups["ep"]).flatten()
    assert torch.equal(all_arrivals, demand(groups, index)), "exact: what is chosen arrives"
    figure = imbalance([dispatcher], groups["ep"], torch.device("cpu"))
    assert figure.tolist() == pytest.approx([float(all_arrivals.max() / all_arrivals.float().mean())])
    assert not dispatcher.arrived

    nobody = ExpertDispatcher(groups["ep"], E)
    run(nobody, make_experts(torch.float32, share(groups)), world.rank, only_zero(world.rank), torch.float32)
    assert list(nobody.arrived) == [0]
    assert imbalance([nobody], groups["ep"], torch.device("cpu")).tolist() == [0]


def padding(world: Any) -> None:
    """Padding tokens stay at home, whatever they hold."""
    groups = Groups(four(ep=4), world.rank, 60)
    torch.manual_seed(0)
    mixture = MixtureOfExperts(CONFIG)
    for parameter in mixture.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    mixture.experts = make_experts(torch.float32, share(groups))
    mixture.dispatcher = ExpertDispatcher(groups["ep"], E)
    x = random(world.rank, 2, 20, H, dtype=torch.float32)
    pad = torch.zeros(2, 20, dtype=torch.bool)
    pad[0, 3:] = pad[1, :5] = True
    underway, routing = mixture.send(x, pad)
    holders = distinct(routing.index_NK, lambda number: number // 2)
    assert all(not holder for holder, padded in zip(holders, pad.flatten().tolist(), strict=True) if padded)
    assert sum(underway.held.route.send) == sum(len(holder) for holder in holders) > 0
    padded = torch.arange(40)[pad.flatten()]
    assert not torch.isin(underway.held.route.token_M, padded).any()
    out = mixture.receive(mixture.compute(underway))
    free = mixture.receive(mixture.compute(mixture.send(x)[0]))
    assert torch.equal(out[~pad], free[~pad]), "padding changes nothing for the others"

    pad[:] = True
    mixture.receive(mixture.compute(mixture.send(x, pad)[0]))
    assert mixture.dispatcher.arrived[-1] == 0


def pods(world: Any) -> None:
    """Two pods of two: the flat result, with less traffic across."""
    groups = Groups(four(ep=4, pod=2), world.rank, 60)
    assert (groups["ep_inner"].size, groups["ep_outer"].size) == (2, 2)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for routing in ROUTINGS:
            index = routing(world.rank)
            two = spread(groups, index, dtype, HierarchicalDispatcher(groups["ep_outer"], groups["ep_inner"], E))
            close(two, reference(groups, index, dtype), dtype)
    index, dtype = natural(world.rank), torch.float32
    TRAFFIC.reset()
    dispatcher = expert_dispatcher(groups, CONFIG)
    with torch.no_grad():
        sent = dispatcher.send(random(1, len(index), H, dtype=dtype), index, random(2, len(index), K, dtype=dtype))
        across = TRAFFIC.totals["all_to_all", "ep_outer"][1]
        dispatcher.receive(dispatcher.compute(sent, make_experts(dtype, share(groups))))
    other = 1 - world.rank // 2
    once = sum(other in pods for pods in distinct(index, lambda number: number // 4))
    flat = sum(len(ranks & {2 * other, 2 * other + 1}) for ranks in distinct(index, lambda number: number // 2))
    assert across == once * 4 * (H + 2 * K) + 8
    assert once < flat, "what the flat one sends across"
    assert TRAFFIC.totals["all_to_all", "ep_inner"][1] > 0
    assert list(dispatcher.arrived) == [int(demand(groups, index)[world.rank])]


def models(world: Any) -> None:
    """A whole model, with and without recomputation, and the order of issue and wait."""
    groups = Groups(four(ep=4), world.rank, 60)
    results = {}
    for name in ("local", "spread", "recomputed", "at once", "pods"):
        torch.manual_seed(0)
        model = Longcat(CONFIG)
        model.init_weights(0)
        model.double()
        model.recompute = name == "recomputed"
        if name != "local":
            layout = four(ep=4, pod=2) if name == "pods" else groups.layout
            here = Groups(layout, world.rank, 60)
            for layer in model.layers.values():
                layer.mlp.dispatcher = expert_dispatcher(here, CONFIG, overlap=name != "at once")
                for weight in layer.mlp.experts.parameters():
                    weight.data = weight.data[share(groups)].clone()
        tokens = torch.randint(0, CONFIG.vocab_size, (2, 24), generator=seeded(world.rank))
        with recorded(model) as events:
            logits = model(tokens)
            events.append("backward")
            (logits * random(world.rank, *logits.shape)).sum().backward()
        check_order(events, name, len(model.layers))
        grads = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
        for key in grads:
            if ".experts." in key:
                whole = all_reduce(grads[key], groups["world" if name == "local" else "expert_replicas"])
                grads[key] = whole[share(groups)] if name == "local" else whole
        results[name] = {"logits": logits.detach(), **grads}
    for name in ("spread", "pods"):
        close(results[name], results["local"], torch.float64)
    assert same(results["recomputed"], results["spread"])
    assert same(results["at once"], results["spread"])


class Noted(Pending):
    def wait(self) -> Tensor:
        if self.work is not None:
            EVENTS.append("wait")
        return super().wait()


EVENTS: list[str] = []


@contextmanager
def recorded(model: Longcat) -> Iterator[list[str]]:
    """Issues and waits of the dispatchers' rows, and when dense sublayers run, forward and backward."""
    start = trip.start_exchange

    def noted(*args: Any) -> Pending:
        pending = start(*args)
        EVENTS.append("issue")
        return Noted(pending.out, pending.work, pending.group)

    EVENTS.clear()
    for layer in model.layers.values():
        for name, module in (("mlp0", layer.mlps[0]), ("attn1", layer.self_attn[1]), ("mlp1", layer.mlps[1])):
            module.register_forward_hook(lambda *_, name=name: EVENTS.append(name))
            module.register_full_backward_hook(lambda *_, name=name: EVENTS.append(f"{name}'"))
    trip.start_exchange = noted
    try:
        yield EVENTS
    finally:
        trip.start_exchange = start


FORWARD = {
    "spread": ["issue", "mlp0", "attn1", "wait", "issue", "mlp1", "wait"],
    "at once": ["issue", "wait", "mlp0", "attn1", "issue", "wait", "mlp1"],
}
BACKWARD = {
    "spread": ["issue", "mlp1'", "wait", "issue", "attn1'", "mlp0'", "wait"],
    "at once": ["issue", "wait", "mlp1'", "issue", "wait", "attn1'", "mlp0'"],
}


def check_order(events: list[str], name: str, layers: int) -> None:
    """The dense path lies between the two ends of every exchange, in both directions."""
    if name not in ("spread", "at once", "recomputed"):
        return
    border = events.index("backward")
    kind = "spread" if name == "recomputed" else name
    backward = (FORWARD[kind] + BACKWARD[kind] if name == "recomputed" else BACKWARD[kind]) * layers
    assert events[:border] == FORWARD[kind] * layers, events
    assert events[border + 1 :] == backward, events


def cases(world: Any) -> None:
    torch.use_deterministic_algorithms(True)
    for case in (parity, traffic, padding, pods, models):
        case(world)


def test_experts():
    spawn(4, cases)


# Without processes


def test_wrong_shards_are_refused():
    with pytest.raises(ValueError, match="8 experts do not spread evenly over 3"):
        ExpertDispatcher(Group("ep", (0, 1, 2), 0), E)
    dispatcher = ExpertDispatcher(ALONE, E)
    sent = dispatcher.send(random(0, 4, H), natural(0)[:4], random(1, 4, K))
    with pytest.raises(ValueError, match="4 experts are here, and must be 8"):
        dispatcher.compute(sent, make_experts(torch.float64, slice(0, 4)))


def test_rows_are_waited_for_once():
    with pytest.raises(RuntimeError, match="nobody sent off"):
        trip.Trip(ALONE, [1], [1], overlap=True).arrive()


def test_balance_is_the_mean_of_uniform_routing():
    balance = Balance(choices=12, experts=768, zero=128)
    index = torch.rand(4000, 896, generator=seeded(0)).topk(12).indices
    for members in (1, 4, 128):
        each = 768 // members
        route = find_route(index, members, each, lambda send: (send.tolist(), send.tolist()))
        assert len(route.token_M) == pytest.approx(4000 * members * balance.reach(each), rel=0.01)
    pod = balance.within(768 // 4)
    assert pod.reach(6) * balance.reach(192) == pytest.approx(balance.reach(6))
    assert pod.reach(192) == 1
    assert balance.chosen(768) == pytest.approx(12 * 768 / 896)


@pytest.fixture
def nobody() -> Iterator[None]:
    """A process group of 64 in which nobody answers."""
    dist.init_process_group("fake", store=FakeStore(), rank=5, world_size=64)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("pod", [0, 8])
@pytest.mark.usefixtures("nobody")
def test_planned(pod):
    """A dry run of the real width: sizes of messages and work are those of a balanced step."""
    model = dataclasses.replace(load_preset("longcat-2.0"), num_layers=1)
    groups = Groups(Layout(dp=64, ep=64, pod=pod), 5, 60)
    tokens, width, each = 2048, model.hidden_size, model.n_routed_experts // 64
    balance = Balance.of(model)
    with torch.device("meta"):
        dispatcher = expert_dispatcher(groups, model, planned=True)
        experts = Experts(dataclasses.replace(model, n_routed_experts=each)).bfloat16()
        x = torch.empty(tokens, width, dtype=torch.bfloat16, requires_grad=True)
        index = torch.empty(tokens, model.moe_topk, dtype=torch.int64)
        gate = torch.empty(tokens, model.moe_topk, requires_grad=True)
        TRAFFIC.reset()
        out = dispatcher.receive(dispatcher.compute(dispatcher.send(x, index, gate), experts))
        out.sum().backward()
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    assert all(item.grad.shape == item.shape for item in (x, gate, *experts.parameters()))
    group = "ep_outer" if pod else "ep"
    size = groups[group].size
    rows = math.ceil(tokens * balance.reach(model.n_routed_experts // size)) * (size - 1)
    card = 4 * min(model.moe_topk, model.n_routed_experts // size)
    assert TRAFFIC.totals["all_to_all", group] == [5, rows * (4 * 2 * width + 3 * card) + 8 * (size - 1)]

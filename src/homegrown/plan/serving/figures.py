"""Figures of one deployment in one world: what replays of published rows compare, and what plans are made from."""

from __future__ import annotations

from homegrown.config.errors import ConfigError
from homegrown.plan.facts import Cluster, Machine, Shape
from homegrown.plan.quantity import EXPECTED, World
from homegrown.plan.serving.capacity import capacity, require_room
from homegrown.plan.serving.clock import Clock
from homegrown.plan.serving.constants import Constants
from homegrown.plan.serving.cost import device_price, hit_cost, per_million
from homegrown.plan.serving.decode import Decode
from homegrown.plan.serving.prefill import Prefill, usable, waiting
from homegrown.plan.serving.setup import Pool, Precision, Setup
from homegrown.plan.serving.weights import token_bytes


def serving_figures(shape: Shape, cluster: Cluster, setup: Setup, world: World = EXPECTED) -> dict[str, float]:
    """Figures of a deployment, in SI units and dollars.

    `names.FIGURES` says what each is. Memory is that of the decode pool where there are two; costs are there where a
    price is known, a and b of a prompt's seconds where prompts are long.

    Raises:
        ConfigError: a format that the chip lacks; and at the best guess, weights that do not fit, and a bound that no
            batch keeps.
    """
    machine = cluster.machine(world)
    require_formats(machine, setup.precision, shape, cluster.chip.title)
    clock = Clock(machine, Constants.at(world))
    price = device_price(cluster.chip, setup.usd_hour, world)
    strict = world is EXPECTED
    found: dict[str, float] = {}
    if setup.prefill is not None:
        found |= memory_figures(clock, shape, setup, setup.prefill, "setup.prefill", drafting=False, strict=strict)
        found |= prefill_figures(clock, shape, setup, setup.prefill, price)
    if setup.decode is not None:
        drafting = setup.speculation.steps > 0
        found |= memory_figures(clock, shape, setup, setup.decode, "setup.decode", drafting=drafting, strict=strict)
        found |= decode_figures(clock, shape, setup, setup.decode, price, strict=strict)
    return found


def require_formats(machine: Machine, precision: Precision, shape: Shape, chip: str) -> None:
    """Refuse number formats in which the chip cannot compute.

    Raises:
        ConfigError: there is such a one.
    """
    used = {"weights": precision.weights, "experts": precision.expert_weights, "core": precision.core}
    if any(group.attention.index_heads for group in shape.layers):
        used["index"] = precision.index
    for name, dtype in used.items():
        if dtype not in machine.products:
            known = ", ".join(sorted(machine.products))
            raise ConfigError(f"precision.{name} = {dtype!r}: {chip} does not compute in it; it has {known}")


def memory_figures(
    clock: Clock, shape: Shape, setup: Setup, pool: Pool, name: str, *, drafting: bool, strict: bool
) -> dict[str, float]:
    """What fits on the devices of a pool; if `strict`, weights must."""
    found = capacity(clock.machine, clock.constants, shape, pool, setup.precision, drafting)
    if strict:
        require_room(found, clock.machine, pool, name)
    return {
        "weights": sum(found.weights.values()),
        "token_bytes": found.token,
        "kv_tokens": found.tokens,
        "kv_tokens_instance": found.tokens * pool.groups,
    }


def prefill_figures(clock: Clock, shape: Shape, setup: Setup, pool: Pool, price: float) -> dict[str, float]:
    """Throughput of full chunks and times to first token, alone and under load."""
    constants, traffic = clock.constants, setup.traffic
    spread = constants.length_spread if traffic.live else 0.0
    prefill = Prefill(clock, shape, pool, setup.precision, spread)
    service = prefill.service(traffic)
    longest = max(kind.input for kind in traffic.mix)
    alone = sum(kind.share * prefill.prompt(kind.input, kind.input * kind.hit_rate) for kind in traffic.mix)
    alone /= sum(kind.share for kind in traffic.mix)
    carried = hand_over(clock, shape, setup, pool)
    least = alone + constants.request_overhead + carried
    most = constants.pool_use if traffic.live else 1.0
    use = setup.use or (usable(setup.ttft, least, service, spread, pool.groups, most) if traffic.live else most)
    rate = traffic.mean("missed") / service / pool.tp
    found = {
        "prefill_use": use,
        "prefill_tokens_per_s_device": rate * use,
        "input_tokens_per_s_device": rate * use / (1 - traffic.hit_rate),
        "input_tokens_per_s_unit": rate * use / (1 - traffic.hit_rate) * setup.per,
        "prefill_tokens_per_s": traffic.mean("missed") / alone,
        "ttft": least + (waiting(use, service, spread, pool.groups) if traffic.live and use else 0.0),
    }
    if longest > 4 * pool.chunk:
        found["prefill_a"], found["prefill_b"] = prefill.line(longest)
    if price and use:
        found["usd_per_million_missed"] = per_million(price, rate * use)
        bandwidth = clock.machine.host_bandwidth
        found["usd_per_million_found"] = hit_cost(price, token_bytes(shape, pool, setup.precision), bandwidth)
    return found


def hand_over(clock: Clock, shape: Shape, setup: Setup, pool: Pool) -> float:
    """Seconds in which a prompt's keys go from the prefill to the decode pool; those of one sublayer, as layers go one
    by one while later ones compute, where there are two pools."""
    if setup.decode is None:
        return 0.0
    layers = sum(group.count for group in shape.layers)
    size = setup.traffic.mean("input") * token_bytes(shape, pool, setup.precision) / layers
    return size / (clock.machine.links[-1].bandwidth * pool.tp)


def decode_figures(
    clock: Clock, shape: Shape, setup: Setup, pool: Pool, price: float, *, strict: bool = True
) -> dict[str, float]:
    """Throughput and time per token at the given batch, or at the largest that keeps the bound.

    Args:
        strict: a bound that no batch keeps is an error; else one request is answered all the same.
    """
    traffic, drafting = setup.traffic, setup.speculation.steps > 0
    spread = clock.constants.length_spread if traffic.live else 0.0
    contexts = traffic.decoding(spread)
    decode = Decode(clock, shape, pool, setup.precision, setup.speculation, contexts, spread)
    room = capacity(clock.machine, clock.constants, shape, pool, setup.precision, drafting)
    mean = sum(share * keys for share, keys in contexts)
    batch = setup.batch or decode.largest(setup.tpot, max(room.tokens / mean, 1.0))
    if not batch and not strict:
        batch = 1.0
    if not batch:
        raise ConfigError(
            f"setup.tpot = {setup.tpot:g}: one request alone takes {decode.tpot(1.0) * 1e3:.1f} ms a token in this "
            "layout; allow more, or change the layout"
        )
    seconds = decode.tpot(batch)
    rate = batch / pool.tp / seconds
    found = {
        "batch": batch,
        "tpot": seconds,
        "user_tokens_per_s": 1 / seconds,
        "decode_tokens_per_s_device": rate,
        "output_tokens_per_s_unit": rate * setup.per,
        "output_tokens_per_s": rate * pool.devices,
    }
    if price:
        found["usd_per_million"] = per_million(price, rate)
    return found

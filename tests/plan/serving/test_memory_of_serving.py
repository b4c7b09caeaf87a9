"""Bytes of weights and keys against the parameters of the model and published caches."""

import pytest

from homegrown.plan.serving.capacity import capacity
from homegrown.plan.serving.setup import Pool, Precision
from homegrown.plan.serving.weights import token_bytes, weight_bytes
from homegrown.plan.shapes import parameters

BF16 = Precision(weights="bf16", dispatch="bf16", index="bf16")


@pytest.mark.parametrize("name", ["longcat-2.0", "longcat-flash", "deepseek-v3", "llama-3.1-405b"])
def test_one_device_holds_every_parameter_once(name, catalogue, request):
    from homegrown.cli.plan_serve import find_shape

    shape = find_shape(name, catalogue)
    parts = weight_bytes(shape, Pool(devices=1), BF16)
    router = parts.pop("router", 0.0)
    numbers = sum(parts.values()) / 2 + router / 4
    assert numbers == pytest.approx(parameters(shape).total, rel=1e-3)


def test_devices_of_an_instance_hold_experts_once_and_latent_projections_each(longcat):
    one, many = (weight_bytes(longcat, Pool(devices=32, tp=tp), Precision()) for tp in (1, 32))
    whole = weight_bytes(longcat, Pool(devices=1), Precision())
    assert one["experts"] == many["experts"] == pytest.approx(whole["experts"] / 32)
    assert one["attention"] == whole["attention"] and one["dense"] == whole["dense"]
    assert whole["attention"] / 32 < many["attention"] < whole["attention"] / 4
    assert many["tables"] == pytest.approx(whole["tables"] / 32)


def test_spare_copies_take_their_room(deepseek):
    plain, copied = (weight_bytes(deepseek, Pool(devices=144, spares=spares), Precision()) for spares in (0, 32))
    assert copied["experts"] / plain["experts"] == pytest.approx(288 / 256)


@pytest.mark.parametrize(("keys", "size"), [("bf16", 97_584), ("fp8", 59_888)])
def test_keys_of_a_token_are_on_every_tensor_parallel_rank(keys, size, longcat):
    """76 sublayers of 576 numbers (656 bytes in fp8) and of an index key of 132 bytes; the same for any tp."""
    for tp in (1, 16, 32):
        pool = Pool(devices=32, tp=tp, index_everywhere=True)
        assert token_bytes(longcat, pool, Precision(keys=keys)) == size


def test_index_keys_are_shared_by_two_sublayers_where_the_engine_knows(longcat):
    assert token_bytes(longcat, Pool(devices=32), Precision()) == 76 * 1152 + 38 * 132


def test_heads_of_grouped_queries_are_divided(catalogue):
    shape = catalogue.shape("llama-3.1-405b")
    one, eight, sixteen = (token_bytes(shape, Pool(devices=16, tp=tp), BF16) for tp in (1, 8, 16))
    assert one == 126 * 8 * 256 * 2 and eight == one / 8 and sixteen == eight


@pytest.mark.parametrize(("keys", "tokens"), [("bf16", 752e3), ("fp8", 1.23e6)])
def test_published_pools_within_five_percent(keys, tokens, longcat, clock_of):
    clock = clock_of("p5en-h200")
    pool = Pool(devices=32, tp=32, memory_share=0.88, index_everywhere=True)
    found = capacity(clock.machine, clock.constants, longcat, pool, Precision(keys=keys))
    assert found.tokens == pytest.approx(tokens, rel=0.05)
    assert sum(found.weights.values()) / 2**30 == pytest.approx(50, rel=0.02)

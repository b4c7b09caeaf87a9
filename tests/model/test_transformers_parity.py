"""Our model against `transformers`' LongCat-Flash: same weights, same logits, same gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from homegrown.config import ModelConfig, RopeConfig
from tests import reference
from tests.model.twin import YARN, built, gradients_of, tiny, twin

CASES: dict[str, ModelConfig] = {
    "plain": tiny(),
    "yarn": tiny(rope=YARN),
    "yarn as LongCat-2.0": tiny(rope=RopeConfig(type="yarn", factor=120.0, original_max_position=8192)),
    "yarn, mscales differ": tiny(rope=replace(YARN, mscale=0.7)),
    "yarn, equal bounds": tiny(rope=replace(YARN, theta=1e8, beta_fast=2.0, beta_slow=1.0)),
    "no zero experts": tiny(zero_expert_num=0),
    "one routed expert, many zero": tiny(n_routed_experts=1, zero_expert_num=7),
    "every expert": tiny(moe_topk=9),
    "three layers, one head, other widths": tiny(
        num_layers=3, num_attention_heads=1, hidden_size=40, q_lora_rank=8, kv_lora_rank=24, v_head_dim=6,
        expert_ffn_hidden_size=7, routed_scaling_factor=9.0,
    ),
    "strong epsilon": tiny(rms_norm_eps=0.1),
}  # fmt: skip


def tokens_for(config: ModelConfig, seed: int, length: int = 33) -> torch.Tensor:
    return torch.randint(config.vocab_size, (3, length), generator=torch.Generator().manual_seed(seed))


def next_token_loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_float32_logits(name: str, seed: int) -> None:
    """Logits are of order one; a few float32 roundings (6e-8) a sublayer stay under 1e-5."""
    config = CASES[name]
    weights, tokens = reference.random_weights(config, seed), tokens_for(config, seed)
    with torch.no_grad():
        ours, theirs = built(config, weights, torch.float32)(tokens), twin(config, weights)(tokens).logits
    assert theirs.abs().max() > 1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, dtype: torch.dtype) -> None:
    """Gradients of every weight through a cross entropy, within 1e-5 of each tensor's largest gradient.

    `transformers` rounds norms, softmax, router and rotary tables to float32 even in a float64 model, so both dtypes
    agree to a small multiple of 6e-8 accumulated over the layers.
    """
    config = CASES[name]
    weights, tokens = reference.random_weights(config, 5), tokens_for(config, 5)
    ours, theirs = built(config, weights, dtype), twin(config, weights, dtype)
    next_token_loss(ours(tokens), tokens).backward()
    next_token_loss(theirs(tokens).logits, tokens).backward()
    expected = gradients_of(config, theirs)
    found = dict(ours.named_parameters())
    assert found.keys() == expected.keys()
    for key, grad in expected.items():
        mine = found[key].grad
        assert mine is not None, key
        bound = 1e-5 * grad.abs().max().item()
        torch.testing.assert_close(mine, grad, atol=bound, rtol=0, msg=lambda text, key=key: f"{key}: {text}")

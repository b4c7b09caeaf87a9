"""Tensor parallelism from outside: hooks around attention and feed-forward networks, sequence sharding between them.

A rank holds its heads, its columns of the feed-forward networks and its rows of the vocabulary; everything else is
whole on all ranks of the group, and is applied to a rank's own slice of the sequence only. So all gradients are partial
sums: of a spread parameter over what the group's slices have in common (nothing is left to add inside the group), of a
whole one over its own slice or its own heads (to be added over the group).

Per attention sublayer the *compressed* states are gathered, per feed-forward network the normed input; both reduce and
scatter their output.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from homegrown.config import UserError
from homegrown.model import Longcat
from homegrown.model.attention import LatentAttention
from homegrown.model.layers import DenseFFN
from homegrown.parallel.collectives import all_gather, reduce_scatter
from homegrown.parallel.groups import Group
from homegrown.parallel.vocabulary import SpreadWords, spread_cross_entropy


class ShardError(UserError):
    """A model cannot be computed in shards as asked; the message names the parameter."""


def shard_tensors(model: Longcat, group: Group) -> None:
    """Make a model, or a part of one, compute together with the other members of a tensor-parallel group.

    The model is changed in place, under the same parameter names. Its contexts must then say which positions are whose
    (`ParallelContext`).

    Args:
        model: its spread parameters are the shards of this rank already: rows (dim 0) of q_b_proj, kv_b_proj,
            gate_proj, up_proj, embed_tokens and lm_head, columns (dim 1) of o_proj and down_proj, cut evenly in the
            order of the group's members.
        group: the members, `tp`.

    Raises:
        ShardError: a parameter is not the size of a shard.
    """
    if group.size == 1:
        return
    check_shards(model, group.size)
    for module in model.modules():
        if isinstance(module, LatentAttention):
            _spread_attention(module, group)
        elif isinstance(module, DenseFFN):
            _spread_feed_forward(module, group)
    if model.embed_tokens is not None:
        model.embed_tokens = SpreadWords(model.embed_tokens.weight, group)
    if model.lm_head is not None:
        model.lm_head.scorer = partial(spread_cross_entropy, group=group)
        model.lm_head.register_forward_pre_hook(_no_logits)


def check_shards(model: Longcat, size: int) -> None:
    """Raise `ShardError` unless every spread parameter has a `size`-th of its rows or columns."""
    config = model.config
    heads = config.num_attention_heads
    whole = {
        "q_b_proj": (0, heads * config.qk_head_dim, "heads"),
        "kv_b_proj": (0, heads * (config.qk_nope_head_dim + config.v_head_dim), "heads"),
        "o_proj": (1, heads * config.v_head_dim, "heads"),
        "gate_proj": (0, config.ffn_hidden_size, "ffn_hidden_size"),
        "up_proj": (0, config.ffn_hidden_size, "ffn_hidden_size"),
        "down_proj": (1, config.ffn_hidden_size, "ffn_hidden_size"),
        "embed_tokens": (0, config.vocab_size, "vocab_size"),
        "lm_head": (0, config.vocab_size, "vocab_size"),
    }
    for name, parameter in model.named_parameters():
        owner = name.removesuffix(".weight").rpartition(".")[2]
        if not name.endswith(".weight") or owner not in whole:
            continue
        dim, count, what = whole[owner]
        if parameter.shape[dim] * size != count:
            raise ShardError(
                f"{name}: {parameter.shape[dim]} of {count} {('rows', 'columns')[dim]} ({what}) are here; a rank of "
                f"tp {size} holds a {size}th of them"
            )


def _spread_attention(attention: LatentAttention, group: Group) -> None:
    """Gather both compressed states; work on the heads that are here; sum over heads, scatter along the sequence."""
    attention.q_a_layernorm.register_forward_hook(partial(_gather_output, group))
    attention.kv_a_proj_with_mqa.register_forward_hook(partial(_gather_output, group))
    attention.o_proj.register_forward_hook(partial(_scatter_output, group))
    if attention.indexer is not None:
        attention.indexer.register_forward_pre_hook(partial(_own_slice, group))


def _spread_feed_forward(network: DenseFFN, group: Group) -> None:
    """Gather the input; work on the columns that are here; sum over them, scatter along the sequence."""
    network.register_forward_pre_hook(partial(_gather_input, group))
    network.register_forward_hook(partial(_scatter_output, group))


def _gather_input(group: Group, module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
    return (all_gather(args[0], group, 1),)


def _gather_output(group: Group, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    return all_gather(out, group, 1)


def _scatter_output(group: Group, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    return reduce_scatter(out, group, 1)


def _own_slice(group: Group, module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The indexer sees this rank's tokens only: of the query latents and rotary tables, which are the group's, a slice.

    It takes them detached, so no gradient is lost.
    """
    x, *shared = args
    own = slice(group.rank * x.shape[1], (group.rank + 1) * x.shape[1])
    return (x, *(item[:, own] for item in shared))


def _no_logits(module: nn.Module, args: tuple[Any, ...]) -> None:
    raise ShardError("lm_head: logits of a vocabulary that is spread over tp; use lm_head.cross_entropy, or tp = 1")

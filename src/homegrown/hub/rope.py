"""The rotary block of config.json: `rope_scaling` (published configs) or `rope_parameters` (transformers 5)."""

from __future__ import annotations

import warnings
from typing import Any

from homegrown.config import RopeConfig
from homegrown.hub.errors import HubError, HubWarning

YARN = ("yarn", "deepseek_yarn")
PLAIN = ("default", "none", None)


def read_rope(table: dict[str, Any], where: str) -> dict[str, Any]:
    """Fields of `RopeConfig` from a config.json.

    Raises:
        HubError: another scaling than YaRN, a YaRN without its factor or original length, or one with extras that
            change the frequencies in a way no model of the family does.
    """
    name = next((name for name in ("rope_scaling", "rope_parameters") if table.get(name) is not None), "rope_scaling")
    block = table.get(name) or {}
    if not isinstance(block, dict):
        raise HubError(f"{where}: {name} is {block!r}; it must be an object or null")
    theta = block.get("rope_theta", table.get("rope_theta"))
    if theta is None:
        raise HubError(f"{where}: key 'rope_theta' is missing")
    kind = block.get("rope_type", block.get("type"))
    if kind in PLAIN:
        return {"theta": theta, "type": "none"}
    if kind not in YARN:
        raise HubError(f"{where}: {name} has type {kind!r}; known are {', '.join(YARN)} and default")
    return {"theta": theta, "type": "yarn"} | _yarn(block, f"{where}: {name}")


def write_rope(rope: RopeConfig, yarn: str) -> dict[str, Any]:
    """The rotary keys of a config.json.

    Args:
        rope: what to say.
        yarn: what its readers call YaRN.
    """
    if rope.type == "none":
        return {"rope_theta": rope.theta, "rope_scaling": None}
    block = {
        "type": yarn,
        "rope_type": yarn,
        "factor": rope.factor,
        "original_max_position_embeddings": rope.original_max_position,
        "beta_fast": rope.beta_fast,
        "beta_slow": rope.beta_slow,
        "mscale": rope.mscale,
        "mscale_all_dim": rope.mscale_all_dim,
    }
    return {"rope_theta": rope.theta, "rope_scaling": block}


def _yarn(block: dict[str, Any], where: str) -> dict[str, Any]:
    for key in ("factor", "original_max_position_embeddings"):
        if block.get(key) is None:
            raise HubError(f"{where} has no {key!r}, which YaRN needs")
    for key, right in (("attention_factor", None), ("truncate", True)):
        if block.get(key, right) not in (right, None):
            raise HubError(f"{where} has {key} = {block[key]!r}, which no model of the family has")
    mscale, all_dim = _mscales(block, where)
    return {
        "factor": block["factor"],
        "original_max_position": block["original_max_position_embeddings"],
        "beta_fast": block.get("beta_fast") or RopeConfig.beta_fast,
        "beta_slow": block.get("beta_slow") or RopeConfig.beta_slow,
        "mscale": mscale,
        "mscale_all_dim": all_dim,
    }


def _mscales(block: dict[str, Any], where: str) -> tuple[Any, Any]:
    """mscale and mscale_all_dim.

    Without either, all reference implementations multiply cosines and sines by 0.1 ln(factor) + 1 and leave the softmax
    scale alone; that is mscale 1, mscale_all_dim 0. With one of the two they disagree.
    """
    mscale, all_dim = block.get("mscale"), block.get("mscale_all_dim")
    if (mscale is None) != (all_dim is None):
        raise HubError(f"{where} has only one of mscale and mscale_all_dim; engines disagree on what that means")
    if mscale is None:
        warnings.warn(
            f"{where} has neither mscale nor mscale_all_dim: read strictly, as mscale 1 and mscale_all_dim 0, which "
            "scales the rotary part of attention only; LongCat-2.0 and Flash-Lite-Sparse have 1 and 1",
            HubWarning,
            stacklevel=2,
        )
        return 1.0, 0.0
    return mscale, all_dim

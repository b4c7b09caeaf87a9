"""Names of a serving plan's figures: what they are, and the unit that tables show them in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Unit = Literal["s", "ms", "us", "ns", "GB", "kB", "tokens", "tok/s", "req/s", "USD", "devices", "requests", "%"]

SCALE: Mapping[Unit, float] = {"ms": 1e-3, "us": 1e-6, "ns": 1e-9, "GB": 1e9, "kB": 1e3, "%": 0.01}
"""SI value of those that are not SI units themselves."""


@dataclass(frozen=True)
class Named:
    """A figure: what it is, and the unit it is shown in."""

    title: str
    unit: Unit


FIGURES: Mapping[str, Named] = {
    "requests_per_s": Named("requests carried", "req/s"),
    "devices": Named("devices needed", "devices"),
    "prefill_devices": Named("of them for prefill", "devices"),
    "decode_devices": Named("of them for decoding", "devices"),
    "ttft": Named("time to first token", "s"),
    "tpot": Named("time per output token", "ms"),
    "user_tokens_per_s": Named("output tokens/s that a user sees", "tok/s"),
    "prefill_tokens_per_s_device": Named("computed prompt tokens/s a device", "tok/s"),
    "input_tokens_per_s_device": Named("prompt tokens/s a device, found ones included", "tok/s"),
    "input_tokens_per_s_unit": Named("the same of a unit of devices", "tok/s"),
    "prefill_tokens_per_s": Named("tokens/s of a prompt alone on an instance", "tok/s"),
    "prefill_use": Named("share of the prefill pool in use", "%"),
    "prefill_a": Named("seconds of a prompt's token, at its beginning (a)", "us"),
    "prefill_b": Named("seconds more for each token before it (b)", "ns"),
    "batch": Named("requests of a decode group at once", "requests"),
    "decode_tokens_per_s_device": Named("output tokens/s a device", "tok/s"),
    "output_tokens_per_s_unit": Named("the same of a unit of devices", "tok/s"),
    "output_tokens_per_s": Named("output tokens/s of a decode instance", "tok/s"),
    "usd_per_million_missed": Named("a million prompt tokens that are computed", "USD"),
    "usd_per_million_found": Named("a million prompt tokens that are found", "USD"),
    "usd_per_million": Named("a million output tokens", "USD"),
    "usd_per_request": Named("a request", "USD"),
    "usd_hour": Named("both pools, an hour", "USD"),
    "weights": Named("weights on a device", "GB"),
    "token_bytes": Named("keys of a token on each device of its group", "kB"),
    "kv_tokens": Named("tokens that a group holds: the longest context", "tokens"),
    "kv_tokens_instance": Named("tokens that an instance holds", "tokens"),
}
"""Figures by name, in the order of tables; values are SI units (bytes, seconds), dollars and counts."""

"""A serving plan as JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

from homegrown.config.atomic import write_text
from homegrown.plan.serving.names import FIGURES
from homegrown.plan.serving.plan import ServePlan
from homegrown.plan.serving.search import DecodePoint
from homegrown.plan.serving.setup import Pool

POINT = ("tokens_per_s_device", "tpot_s", "user_tokens_per_s", "batch_group", "batch_device")
POOL = ("devices", "tp", "groups", "ep", "exchange")


def plan_record(plan: ServePlan) -> dict[str, Any]:
    """A plan as plain values: SI units and dollars."""
    return {
        "command": plan.command,
        "model": plan.shape.name,
        "cluster": plan.cluster.name,
        "targets": dataclasses.asdict(plan.targets),
        "setup": dataclasses.asdict(plan.setup),
        "rate": plan.rate,
        "prefill_instances": plan.prefill_instances,
        "decode_instances": plan.decode_instances,
        "devices": plan.devices,
        "figures": {
            name: {"value": figure.value, "low": figure.low, "high": figure.high, "title": FIGURES[name].title}
            for name, figure in plan.figures.items()
        },
        "decode_parts_s": dict(plan.decode_parts),
        "prefill_parts_s": dict(plan.prefill_parts),
        "memory_bytes": {pool: dict(parts) for pool, parts in plan.memory.items()},
        "prompts": [{"tokens": tokens, "seconds": seconds} for tokens, seconds in plan.prompts],
        "front": [_point(point) for point in plan.front],
    }


def write_json(plan: ServePlan, path: Path) -> None:
    """Write a plan as JSON."""
    write_text(path, json.dumps(plan_record(plan), indent=2) + "\n")


def front_csv(plan: ServePlan) -> str:
    """The front of throughput against latency as CSV, the quickest first."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [*POINT, *POOL], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_point(point) for point in plan.front)
    return file.getvalue()


def write_csv(plan: ServePlan, path: Path) -> None:
    """Write the front of a plan as CSV."""
    write_text(path, front_csv(plan))


def _point(point: DecodePoint) -> dict[str, float | int | str]:
    values = point.rate, point.tpot, 1 / point.tpot, point.batch, point.batch / point.pool.tp
    return dict(zip(POINT, values, strict=True)) | _pool(point.pool)


def _pool(pool: Pool) -> dict[str, float | int | str]:
    values = pool.devices, pool.tp, pool.groups, pool.experts_over, pool.exchange
    return dict(zip(POOL, values, strict=True))

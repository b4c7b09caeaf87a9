"""A serving benchmark for a person: tables and a few sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from homegrown.bench.serve.sessions import FIRST

BUSY = 0.5
"""With a higher load average before it began, a run was disturbed."""

_TIMES = {"TTFT": "ttft", "TPOT": "tpot", "ITL": "itl", "end": "e2el"}
_STATISTICS = ("mean", "p50", "p90", "p95", "p99")


def tables(record: dict[str, Any]) -> list[Table]:
    """What a record has to show."""
    if "overhead" in record:
        return [_overhead(record)]
    made = [_main(record)]
    if record["prefix_table"]:
        made.append(_rows("TTFT against the part of the prompt that is new", record["prefix_table"], _PREFIX))
    if record["turns_table"]:
        made.append(_rows("turn by turn", record["turns_table"], _TURNS))
    made += [_rows("streams beside the long prompt's prefill", rows, _PACE) for rows in record["pace"] if rows]
    return made


def summary(record: dict[str, Any]) -> str:
    """What the numbers say, in plain lines."""
    if "overhead" in record:
        lines = [_overhead_summary(record["overhead"])]
    else:
        lines = [*map(_rates, record["contestants"]), *_about(record), *map(_ratio, record["ratios"])]
    if record["load_average_before"] > BUSY:
        lines.append(f"disturbed: the load average was {record['load_average_before']:.1f} before it began")
    return "\n".join(lines)


def _about(record: dict[str, Any]) -> list[str]:
    pieces = f"{record['tokens_per_chunk']:.2f} tokens a piece: ITL is between pieces, TPOT per token"
    lines = [pieces if record["usage_told"] else "the server sends no usage: pieces are counted as tokens"]
    if record["cached_tokens"]:
        lines.append(
            f"prefix cache: {record['prefix_hit_rate']:.1%} of prompt tokens, in {record['prefix_hit_requests']} of "
            f"{record['completed']} requests"
        )
    if record["spec_decode_acceptance_rate"] is not None:
        lines.append(f"speculation: {record['spec_decode_acceptance_rate']:.1%} of drafted tokens accepted")
    if record["request_goodput"] is not None:
        bounds = ", ".join(f"{name} at most {bound:g} ms" for name, bound in record["goodput_slo_ms"].items())
        lines.append(
            f"goodput ({bounds}): {record['request_goodput']:.2f} requests/s, {record['goodput_share']:.1%} of all"
        )
    if record["prefix_line"]:
        line = record["prefix_line"]
        lines.append(
            f"TTFT of prefix hits: {line['ms_at_zero']:.1f} ms + {line['ms_per_new_token']:.3f} ms a new token "
            f"(R² {line['r2']:.3f})"
        )
    if record["short_answers"]:
        lines.append(f"{record['short_answers']} answers are shorter than was asked for")
    if record["errors_by_kind"]:
        lines.append("failed: " + ", ".join(f"{count} x {kind}" for kind, count in record["errors_by_kind"].items()))
        lines.append(f"  such as: {next(error for error in record['errors'] if error)}")
    if not record["exact_lengths"]:
        lines.append("lengths are in words; --tokenizer DIR makes them exact")
    return lines


def _ratio(ratio: dict[str, Any]) -> str:
    rounds = ratio["output_throughput_rounds"]
    line = (
        f"{ratio['output_throughput']:.2f} times the output tokens/s of {ratio['peer']} (round by round "
        f"{rounds.minimum:.2f} to {rounds.maximum:.2f})"
    )
    return line if ratio["median_ttft"] is None else f"{line}, its median TTFT is {ratio['median_ttft']:.1f} times ours"


def _main(record: dict[str, Any]) -> Table:
    origin = record["origin"]
    made = Table(
        title=_title(record["scenario"], record["load"]),
        caption=f"{origin.device['name']}, {record['threads']} threads; rounds: {record['repetitions']}",
    )
    made.add_column("milliseconds", no_wrap=True)
    for heading in _STATISTICS:
        made.add_column(heading, justify="right")
    for found in record["contestants"]:
        _section(made, found, found["name"])
    groups = {name: found for name, found in record["groups"].items() if name != FIRST}
    if len(groups) > 1:
        for name, found in groups.items():
            _section(made, found, f"of it {name}")
    return made


def _title(scenario: str, load: dict[str, Any]) -> str:
    lengths = f"{load['input']} tokens in, {load['output']} out"
    if load["long"]:
        return f"{scenario}: {load['long']:,} tokens in, beside {load['concurrency']} streams of {lengths}"
    arrive = f"{load['rate']:g} a second" if load["rate"] else "as they can"
    at_once = f", {load['concurrency']} at a time" if load["concurrency"] else ""
    return f"{scenario}: {load['requests']} sessions, {arrive}{at_once}; {lengths}"


def _section(table: Table, found: dict[str, Any], name: str) -> None:
    """The rows of one contestant, or of one group of its requests."""
    table.add_section()
    table.add_row(f"[bold]{escape(name)}[/bold]")
    for heading, key in _TIMES.items():
        if found.get(f"mean_{key}_ms"):
            table.add_row(f"  {heading}", *(f"{found[f'{which}_{key}_ms']:,.1f}" for which in _STATISTICS))


def _rates(found: dict[str, Any]) -> str:
    line = f"{found['name']}: {found['output_throughput']:,.1f} output tokens/s, {found['request_throughput']:.2f} "
    return f"{line}requests/s, {found['completed']} completed, {found['failed']} failed"


_PREFIX = (
    ("", "group", "s"), ("new tokens", "new_tokens", "d"), ("prompt", "median_prompt_tokens", ".0f"),
    ("cached", "median_cached_tokens", ".0f"), ("requests", "requests", "d"),
    ("TTFT p50, ms", "median_ttft_ms", ",.1f"), ("p99", "p99_ttft_ms", ",.1f"),
)  # fmt: skip
_TURNS = (
    ("turn", "turn", "d"), ("requests", "requests", "d"), ("prompt", "median_prompt_tokens", ".0f"),
    ("cached", "median_cached_tokens", ".0f"), ("TTFT p50, ms", "median_ttft_ms", ",.1f"),
    ("p99", "p99_ttft_ms", ",.1f"), ("TPOT p50, ms", "median_tpot_ms", ",.1f"),
)  # fmt: skip
_PACE = (
    ("", "phase", "s"), ("seconds", "seconds", ".1f"), ("output tokens/s", "output_throughput", ",.1f"),
    ("ITL p50, ms", "p50_itl_ms", ",.1f"), ("p95", "p95_itl_ms", ",.1f"), ("p99", "p99_itl_ms", ",.1f"),
    ("longest", "max_itl_ms", ",.1f"),
)  # fmt: skip


def _rows(title: str, rows: Sequence[dict[str, Any]], columns: Sequence[tuple[str, str, str]]) -> Table:
    made = Table(title=title)
    for heading, _, form in columns:
        made.add_column(heading, justify="left" if form == "s" else "right")
    for row in rows:
        made.add_row(*(format(row[name], form) for _, name, form in columns))
    return made


def _overhead(record: dict[str, Any]) -> Table:
    found, origin = record["overhead"], record["origin"]
    made = Table(title="one request at a time", caption=origin.device["name"])
    for heading in ("", "ms a token", "quartiles"):
        made.add_column(heading, justify="right" if heading else "left")
    rows = [("engine alone", found.engine_ms), ("through HTTP", found.http_ms)]
    rows += [(f"a step, {queued.waiting:,} waiting", queued.step_ms) for queued in found.queued]
    for name, spread in rows:
        made.add_row(name, f"{spread.median:.3f}", f"{spread.lower_quartile:.3f} to {spread.upper_quartile:.3f}")
    return made


def _overhead_summary(found: Any) -> str:
    return (
        f"HTTP, scheduling and text add {found.share:.1%} to the engine's own time a token (round by round "
        f"{found.paired.minimum:.1%} to {found.paired.maximum:.1%})"
    )

"""What each section of the page says. Every function returns the values its template shows, None where unrecorded."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from homegrown.ledger import GENESIS, Record
from homegrown.report import bars, curves, heat
from homegrown.report.numbers import count, duration, parameters, percent, quantity
from homegrown.report.run import Run
from homegrown.report.series import spread
from homegrown.report.text import coloured, visible

_SAMPLED_STEPS = 6
_LISTED_RECORDS = 60
_RECORD_TEXT = 240

Values = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    slug: str
    """Anchor, and name of the template."""
    title: str
    values: Values


def sections(run: Run) -> list[Section]:
    """All sections, in the order of the page."""
    makers: list[tuple[str, str, Callable[[Run], Values]]] = [
        ("result", "Result", result),
        ("samples", "How it learned to write", samples),
        ("loss", "Loss", loss),
        ("optimisation", "Learning rate and gradients", optimisation),
        ("experts", "Expert load", experts),
        ("router", "Router health", router),
        ("active", "Active parameters", active),
        ("tokens", "Compute per token", tokens),
        ("throughput", "Throughput", throughput),
        ("energy", "Energy", energy),
        ("times", "Where the time went", times),
        ("environment", "Environment", environment),
        ("config", "Configuration", config),
        ("ledger", "Ledger", ledger),
        ("next", "What to run next", following),
    ]
    return [Section(slug, title, make(run)) for slug, title, make in makers]


def result(run: Run) -> Values:
    """The held-out score against the compressors, and the run in a few numbers."""
    bpb, source = _score(run)
    baselines = run.analysis.baselines
    return {
        "bpb": bpb,
        "source": source,
        "verdict": _verdict(bpb, baselines) if bpb is not None and baselines else "",
        "rows": [(name, value, _against(bpb, value)) for name, value in sorted(baselines.items(), key=lambda b: b[1])],
        "plot": bars.score_bars(bpb, baselines) if bpb is not None and baselines else None,
        "facts": _facts(run),
    }


def _score(run: Run) -> tuple[float | None, str]:
    """Held-out bits per byte, and what was scored."""
    held = run.analysis.heldout
    if held is not None:
        parts = [
            f"{count(value)} {unit}"
            for value, unit in ((held.bytes, "bytes"), (held.tokens, "tokens"), (held.documents, "documents"))
            if value is not None
        ]
        return held.bpb, f"Scored on held-out text: {', '.join(parts)}." if parts else "Scored on held-out text."
    if run.evals:
        last = run.evals[-1]
        scope = "the whole held-out split" if last.get("final") is True else "part of the held-out split"
        return last["bpb"], f"The run's last score, at step {last['step']}, on {scope}; no final analysis was recorded."
    return None, ""


def _verdict(bpb: float, baselines: dict[str, float]) -> str:
    """Whether the model is better than the compressors, and by how much, in a sentence."""
    ranked = sorted(baselines, key=lambda name: baselines[name])
    beaten = [name for name in ranked if bpb < baselines[name]]
    best = f"It needs {_against(bpb, baselines[ranked[0]])} than {ranked[0]}"
    if len(beaten) == len(ranked):
        return f"Better than every compressor it was measured against. {best}, the best of them."
    if not beaten:
        return f"Not better than any compressor it was measured against. {best}, the best of them."
    return f"Better than {beaten[0]}: {_against(bpb, baselines[beaten[0]])}. {best}."


def _against(bpb: float | None, other: float) -> str:
    if bpb is None or not other > 0:
        return ""
    ratio = bpb / other
    return f"{percent(1 - ratio)} fewer bits" if ratio < 1 else f"{percent(ratio - 1)} more bits"


def _facts(run: Run) -> list[tuple[str, str, str]]:
    """Name, value and explanation of the numbers at the top of the page; those recorded."""
    facts: list[tuple[str, str, str]] = []
    sizes = run.analysis.parameters
    if sizes is not None:
        facts.append(("Parameters", parameters(sizes.total), "in all"))
        if sizes.active_mean is not None:
            facts.append(("Active", parameters(sizes.active_mean), "per token on average"))
    if run.steps is not None:
        wanted = f"of {count(run.config.steps)}" if run.config else ""
        facts.append(("Steps", count(run.steps), wanted))
    if run.tokens is not None:
        facts.append(("Tokens", quantity(run.tokens), "trained on"))
    if "train" in run.analysis.times:
        facts.append(("Training", duration(run.analysis.times["train"]), "wall-clock"))
    if run.analysis.energy is not None:
        kind = "measured" if run.analysis.energy.counter else "estimated"
        facts.append(("Energy", quantity(run.analysis.energy.joules, "J"), kind))
    return facts


def samples(run: Run) -> Values:
    """What the model wrote at some steps, first to last."""
    steps = sorted({line["step"] for line in run.samples})
    bpb = {line["step"]: line.get("bpb") for line in run.train}
    shown = [steps[index] for index in spread(len(steps), _SAMPLED_STEPS)]
    groups = [
        {"step": step, "bpb": bpb.get(step), "texts": [_sample(line) for line in run.samples if line["step"] == step]}
        for step in shown
    ]
    return {"groups": groups, "left_out": len(steps) - len(shown)}


def _sample(line: Values) -> tuple[str, str]:
    """Prompt and continuation."""
    prompt = line.get("prompt")
    prompt = prompt if isinstance(prompt, str) else ""
    return visible(prompt), visible(line["text"].removeprefix(prompt))


def loss(run: Run) -> Values:
    """Bits per byte, and each term of the loss."""
    return {"main": curves.bits_per_byte(run), "terms": curves.loss_terms(run), "missing": curves.missing_terms(run)}


def optimisation(run: Run) -> Values:
    """Learning rate and gradient norm, with the skipped steps."""
    skipped = [count(step) for step in curves.skipped_steps(run)]
    return {
        "plots": _made(curves.learning_rate(run), curves.gradient_norm(run)),
        "recorded": bool(run.train),
        "skipped": skipped[:20],
        "skipped_more": max(len(skipped) - 20, 0),
    }


def experts(run: Run) -> Values:
    """Real experts per token against the target, and the load of every expert."""
    target, last = curves.target_experts(run), run.train[-1].get("real_experts") if run.train else None
    return {
        "plots": _made(curves.real_experts(run)),
        "target": target,
        "last": last,
        "topk": run.config.model.moe_topk if run.config else None,
        "load": heat.expert_load(run),
        "scale": heat.scale_css(),
    }


def router(run: Run) -> Values:
    """Gradient ratio and similarity of the router's rows."""
    return {"plots": _made(curves.router_health(run), curves.router_similarity(run))}


def active(run: Run) -> Values:
    """How many parameters a token uses: over tokens, and over the run."""
    histogram = run.analysis.active_histogram
    return {
        "plots": _made(bars.active_bars(histogram) if histogram else None, curves.active_parameters(run)),
        "histogram": histogram is not None,
        "sizes": run.analysis.parameters,
    }


def tokens(run: Run) -> Values:
    """A text coloured by the compute of its tokens."""
    compute = run.analysis.token_compute
    return {"text": coloured(compute) if compute else None}


def throughput(run: Run) -> Values:
    """Speed over time and against the measured limits."""
    speed = run.analysis.throughput
    return {
        "speed": speed,
        "plots": _made(
            bars.flops_bars(speed) if speed else None,
            curves.tokens_per_second(run),
            curves.peak_fraction(run),
            curves.memory(run),
        ),
    }


def energy(run: Run) -> Values:
    """Joules, and whether they were measured."""
    used, seconds = run.analysis.energy, run.analysis.times.get("train")
    return {
        "energy": used,
        "per_token": used.joules / run.tokens if used and run.tokens else None,
        "watts": used.joules / seconds if used and seconds else None,
    }


def times(run: Run) -> Values:
    """Seconds of each stage."""
    spent, total = run.analysis.times, sum(run.analysis.times.values())
    rows = [(visible(name), seconds, seconds / total if total else 0.0) for name, seconds in spent.items()]
    return {"rows": rows, "total": total, "plot": bars.time_bars(spent) if spent else None}


def environment(run: Run) -> Values:
    """Facts of the machine and the software."""
    return {"rows": _flat(run.environment)}


def _flat(table: Values, prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in table.items():
        name = f"{prefix}{visible(key)}"
        if isinstance(value, dict):
            rows += _flat(value, f"{name}.")
        else:
            rows.append((name, _fact(name, value)))
    return rows


def _fact(name: str, value: Any) -> str:
    """A value as text; measured speeds and sizes with their unit."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if "flops" in name:
            return quantity(value, "FLOP/s")
        if name.endswith("bytes_per_s"):
            return quantity(value, "B/s")
        if name.endswith("bytes"):
            return f"{quantity(value / 2**30)} GiB"
    if isinstance(value, list):
        return visible("; ".join(_fact("", item) for item in value))
    return visible(value if isinstance(value, str) else json.dumps(value))


def config(run: Run) -> Values:
    """The resolved configuration, as it was saved."""
    return {"text": visible(run.config_text)}


def ledger(run: Run) -> Values:
    """The chain's state, and its records but for the steps."""
    chain = run.chain
    notable = [record for record in chain.records if record.kind != "step"]
    return {
        "chain": chain,
        "last_hash": chain.records[-1].hash if chain.records else GENESIS,
        "kinds": sorted(Counter(visible(record.kind) for record in chain.records).items()),
        "records": [_row(record) for record in notable[-_LISTED_RECORDS:]],
        "left_out": max(len(notable) - _LISTED_RECORDS, 0),
    }


def _row(record: Record) -> tuple[int, str, str, str]:
    text = ", ".join(f"{key}: {_fact('', value)}" for key, value in record.payload.items())
    short = text if len(text) <= _RECORD_TEXT else f"{text[:_RECORD_TEXT]}…"
    return record.seq, record.time.replace("T", " ")[:19], visible(record.kind), visible(short)


def following(run: Run) -> Values:
    """Commands that go on from here, each with what it is for."""
    here, commands = run.path, []
    export, settings = here / "export", here / "config.toml"
    unfinished = run.config is not None and run.steps is not None and run.steps < run.config.steps
    if export.is_dir():
        commands += [
            ("Let it write", f'homegrown generate {_shell(export)} --prompt "def "'),
            ("Talk to it in the terminal", f"homegrown chat {_shell(export)}"),
        ]
    if settings.exists() and unfinished:
        commands.append(("Go on where it stopped", f"homegrown train {_shell(settings)}"))
    if settings.exists() and run.config is not None:
        longer = f"homegrown train {_shell(settings)} --run runs/longer --steps {2 * run.config.steps}"
        commands.append(("Train the same model for twice as long", longer))
    commands.append(("Make this page again", f"homegrown report {_shell(here)}"))
    return {"commands": commands, "python_path": visible(repr(str(export))) if export.is_dir() else ""}


def _shell(path: Any) -> str:
    return visible(shlex.quote(str(path)))


def _made(*plots: Any) -> list[Any]:
    return [made for made in plots if made is not None]

"""What the page of a finished run says, and that it needs nothing but itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from page_tree import Node, parse
from synthetic_run import BASELINES, PROMPTS, SOURCES, TEXT, Shape, write_run

from homegrown.ledger import Ledger
from homegrown.report import write_report

SLUGS = [
    "result", "samples", "loss", "optimisation", "experts", "router", "active", "tokens", "throughput", "energy",
    "times", "environment", "config", "ledger", "next",
]  # fmt: skip


def section(page: Node, slug: str) -> Node:
    return page.one("section", id=slug)


def titles(node: Node) -> list[str]:
    return [figure.one("strong").text() for figure in node.all("figure")]


def test_sections_stand_in_order_and_are_linked(page: Node) -> None:
    assert [node.attrs["id"] for node in page.all("section")] == SLUGS
    assert [link.attrs["href"] for link in page.one("nav").all("a")] == [f"#{slug}" for slug in SLUGS]
    for node in page.all("section"):
        assert page.one("h2", id=node.attrs["aria-labelledby"] or "").text()


def test_the_page_needs_nothing_but_itself(page: Node, page_path: Path) -> None:
    assert not page.all("script") + page.all("link") + page.all("img") + page.all("iframe") + page.all("object")
    for node in page.walk():
        for name in ("src", "href", "xlink:href", "action", "poster", "data", "srcset"):
            value = node.attrs.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,")), f"<{node.tag} {name}={value[:60]}>"
    text = page_path.read_text()
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attrs["content"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_ids_are_unique_and_every_reference_is_answered(page: Node, page_path: Path) -> None:
    ids = [node.attrs["id"] for node in page.walk() if "id" in node.attrs]
    assert len(ids) == len(set(ids))
    used = re.findall(r'url\(#([^)]+)\)|(?:href|aria-labelledby)="#?([^":]+)"', page_path.read_text())
    assert {first or second for first, second in used} <= set(ids)


def test_the_same_record_gives_the_same_bytes(finished_run: Path, page_path: Path, tmp_path: Path) -> None:
    again = write_report(finished_run, tmp_path / "deep" / "again.html")
    assert again == tmp_path / "deep" / "again.html"
    assert again.read_bytes() == page_path.read_bytes()


def test_every_figure_tells_its_content_in_words(page: Node) -> None:
    drawings = page.all("svg")
    assert len(drawings) > 15
    assert all(drawing.attrs["role"] == "img" and len(drawing.attrs["aria-label"] or "") > 30 for drawing in drawings)


def test_result_compares_with_every_compressor(page: Node) -> None:
    result = section(page, "result")
    assert result.one("p", class_="headline").text() == "1.422 bits per byte, held out"
    verdict = "Better than xz -9e: 18.4 % fewer bits. It needs 2.2 % more bits than xz -9e primed."
    assert result.one("p", class_="verdict").text() == verdict
    rows = [row.text() for row in result.one("tbody").all("tr")]
    assert rows == [
        "xz -9e primed 1.391 2.2 % more bits", "xz -9e 1.742 18.4 % fewer bits", "gzip -9 2.193 35.2 % fewer bits",
    ]  # fmt: skip
    label = result.one("svg").attrs["aria-label"] or ""
    assert all(f"{name} {value:.3f}" in label for name, value in {**BASELINES, "this model": 1.4218}.items())
    assert "812,345 bytes, 301,222 tokens, 37 documents" in result.text()
    facts = [fact.text() for fact in result.one("dl", class_="facts").all("div")]
    assert facts == [
        "Parameters 24.3 M in all", "Active 3.86 M per token on average", "Steps 400 of 400",
        "Tokens 1.64 M trained on", "Training 3 min 34 s wall-clock", "Energy 5.23 kJ estimated",
    ]  # fmt: skip


def test_samples_run_from_before_training_to_the_end(page: Node) -> None:
    samples = section(page, "samples")
    heads = [head.text().split(" 1.")[0] for head in samples.all("h3")]
    assert heads == ["Before training", "Step 133", "Step 266", "Step 400"]
    texts = samples.all("pre")
    assert [text.one("b").raw() for text in texts[:3]] == list(PROMPTS)
    assert texts[-2].raw().startswith('class Queue:\n    """A simple FIFO queue."""\n')
    assert "\u240c" in texts[0].raw()  # a form feed is shown, not swallowed


def test_loss_shows_curves_terms_and_what_is_missing(page: Node) -> None:
    loss = section(page, "loss")
    assert titles(loss) == [
        "Bits per byte", "Next token", "Multi-token prediction", "Device-level balance", "Hidden z-loss", "Total",
    ]  # fmt: skip
    assert loss.one("p", class_="missing").text() == "Not recorded: loss terms: Sparse-attention indexer."
    label = loss.all("svg")[0].attrs["aria-label"] or ""
    assert "Held-out bits per byte: 3.63 at step 50, 1.42 at step 400" in label
    drawn = loss.all("svg")[0].raw()
    assert all(name in drawn for name in (*BASELINES, "training", "held out"))


def test_the_skipped_step_is_marked(page: Node) -> None:
    node = section(page, "optimisation")
    assert titles(node) == ["Learning rate", "Gradient norm"]
    assert "marks 1 skipped step" in node.text()
    assert node.text().endswith("recent range: step 250 .") or node.text().endswith("recent range: step 250.")
    norm = node.all("svg")[1]
    assert "highest 3" in (norm.attrs["aria-label"] or "")  # the infinite norm of the skipped step is not drawn
    assert "var(--series-2)" in str(norm)


def test_expert_load_has_a_picture_per_layer_with_the_zero_share(page: Node) -> None:
    node = section(page, "experts")
    assert titles(node) == ["Real experts per token", "Layer 0", "Layer 1", "Layer 2", "Layer 3"]
    assert "holds the mean number of real experts at 4;" in node.text()
    assert "target 4" in node.all("svg")[0].raw()
    assert "equal part of 66.7 % of the slots and all zero experts together 33.3 %" in node.text()
    for drawing in node.all("svg")[1:]:
        assert len(drawing.all("image")) == 2
        assert "zero" in drawing.raw()
    assert len(node.one("ul", class_="scale").all("li")) == 5


def test_router_active_and_throughput(page: Node) -> None:
    assert titles(section(page, "router")) == ["Router health", "Router similarity"]
    assert "healthy below 0.1" in section(page, "router").all("svg")[0].raw()
    node = section(page, "active")
    assert "Of 24.3 M parameters a token uses 3.86 M on average, 2.1 M at least" in node.text()
    assert titles(node) == ["Distribution over tokens", "Active parameters per token"]
    speed = section(page, "throughput")
    assert titles(speed)[0] == "Training against the machine's limits"
    assert "training step 70 GFLOP/s; peak, bfloat16 91 GFLOP/s; peak, float32 162 GFLOP/s" in (
        speed.all("svg")[0].attrs["aria-label"] or ""
    ).replace("\u202f", " ")
    assert "43.0 % of the measured peak" in speed.text()


def test_the_coloured_text_is_the_text(page: Node) -> None:
    node = section(page, "tokens")
    tokens = node.one("div", class_="coloured").all("span")
    assert "".join(token.raw() for token in tokens) == TEXT
    assert node.one("div", class_="coloured").raw() == TEXT  # nothing stands between the tokens
    assert len({token.attrs["class"] for token in tokens}) > 6
    for token in tokens:
        assert re.fullmatch(
            r"\d\.\d real experts on average, \d(\.\d+)?\u202fM active parameters", token.attrs["title"] or ""
        )
    most, least = (table.all("tr")[1:] for table in node.all("table"))
    given = [[float(row.all("td")[0].text()) for row in rows] for rows in (most, least)]
    assert given[0] == sorted(given[0], reverse=True)
    assert given[1] == sorted(given[1])
    assert given[1][-1] < given[0][-1]
    edges = node.one("div", class_="edges").all("span")
    assert [edge.text()[:1] for edge in edges] == ["≤", "4", "≥"]


@pytest.mark.parametrize(
    ("source", "badge", "told"),
    [
        ("estimate", "Estimate", "Estimate , not a measurement."),
        ("counter:rapl", "Measured", "Measured by the hardware counter rapl ."),
    ],
)
def test_energy_says_whether_it_was_measured(tmp_path: Path, source: str, badge: str, told: str) -> None:
    analysis = {"energy": {"joules": 5234.0, "source": source, "detail": SOURCES[source]}, "times": {"train": 214.0}}
    (tmp_path / "analysis.json").write_text(json.dumps(analysis))
    (tmp_path / "metrics.jsonl").write_text('{"kind":"train","step":16,"tokens":65536}\n')
    node = section(parse(write_report(tmp_path).read_text()), "energy")
    assert node.one("span", class_="badge").text() == badge
    assert told in node.text()
    assert SOURCES[source] in node.text()
    assert f"Per token {5234 / 65536 * 1000:.1f} mJ" in node.text()
    assert "Power 24.5 W" in node.text()


def test_times_environment_and_config(page: Node, finished_run: Path) -> None:
    rows = [row.text() for row in section(page, "times").one("table").all("tr")[1:]]
    assert rows[2] == "train 3 min 34 s 84 %"
    assert rows[-1] == "Together 4 min 16 s"
    facts = [row.text() for row in section(page, "environment").one("tbody").all("tr")]
    assert "device.name Example Processor 9000, 2 cores" in facts
    assert "device.memory_bytes 16 GiB" in facts
    assert "peak_flops.float32 162 GFLOP/s" in facts
    text = section(page, "config").one("details").one("pre").raw()
    assert text.strip() == (finished_run / "config.toml").read_text().strip()


def test_ledger_is_verified_and_named_by_its_last_hash(page: Node, finished_run: Path) -> None:
    records = Ledger.read(finished_run / "ledger.jsonl")
    node = section(page, "ledger")
    assert node.one("code", class_="hash").text() == records[-1].hash
    facts = [fact.text() for fact in node.one("dl").all("div")]
    assert facts[:2] == [f"Records {len(records)}", "Chain verified Yes every record, first to last"]
    kinds = [row.text() for row in node.all("tbody")[0].all("tr")]
    assert kinds == ["checkpoint 2", "end 1", "start 1", "step 400"]
    assert [row.all("th")[0].text() for row in node.all("tbody")[1].all("tr")] == [
        "start",
        "checkpoint",
        "checkpoint",
        "end",
    ]


def test_next_commands_name_this_run(page: Node, finished_run: Path) -> None:
    commands = [code.text() for code in section(page, "next").all("code")]
    assert commands[0] == f'homegrown generate {finished_run / "export"} --prompt "def "'
    assert f"homegrown report {finished_run}" in commands
    assert f"homegrown train {finished_run / 'config.toml'} --run runs/longer --steps 800" in commands
    assert f"homegrown.load('{finished_run / 'export'}')" in section(page, "next").one("pre").raw()


@pytest.mark.slow
def test_a_large_model_s_page_stays_below_two_megabytes(tmp_path: Path) -> None:
    write_run(tmp_path, Shape(steps=1500, layers=14, experts=768, zero=128, topk=12))
    path = write_report(tmp_path)
    assert path.stat().st_size < 2_000_000
    text = section(parse(path.read_text()), "experts").text()
    assert "12 of 14 layers are shown, evenly spread. Each row averages 6 neighbouring experts." in text

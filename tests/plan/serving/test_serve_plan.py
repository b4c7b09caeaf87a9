"""Plans of serving: sizes against brute force, targets, files, the page and the command."""

import csv
import io
import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from homegrown.cli.plan_serve import run
from homegrown.config import ConfigError, UsageError
from homegrown.plan.serving import Pool, Precision, Requests, Served, Speculation, Targets, Traffic, serve_plan
from homegrown.plan.serving.files import front_csv, plan_record
from homegrown.plan.serving.page import render
from homegrown.plan.serving.plots import front_plot
from homegrown.plan.serving.search import DecodePoint, PrefillPoint, decode_points, pools
from homegrown.plan.serving.sizing import for_devices, for_rate

TRAFFIC = Traffic(mix=(Requests(input=4000, output=800, hit_rate=0.56),))


@pytest.fixture(scope="module")
def served(longcat, catalogue):
    return Served(longcat, catalogue.cluster("hgx-h200"), TRAFFIC, Precision(), Speculation())


@pytest.fixture(scope="module")
def plan(served):
    return serve_plan(served, Targets(ttft=2.0, tpot=0.05, rate=100.0), worlds=16, command="homegrown plan serve")


def test_a_plan_keeps_its_targets_and_carries_its_rate(plan):
    figures = plan.figures
    assert figures["tpot"].value <= 0.05 and figures["ttft"].value <= 2.0
    assert plan.rate == 100.0 <= figures["requests_per_s"].value
    assert plan.devices >= figures["devices"].value
    assert all(figure.low <= figure.value <= figure.high for figure in figures.values())
    assert figures["tpot"].high > 1.1 * figures["tpot"].value
    cost = 1760 * figures["usd_per_million_missed"].value + 800 * figures["usd_per_million"].value
    assert figures["usd_per_request"].value == pytest.approx(cost / 1e6)


def test_parts_add_up(plan):
    assert sum(plan.decode_parts.values()) == pytest.approx(plan.figures["tpot"].value)
    for parts in plan.memory.values():
        assert sum(parts.values()) == pytest.approx(143_771 * 2**20)
    assert plan.memory["decode"]["keys"] > plan.memory["prefill"]["keys"]


def test_nothing_on_the_front_is_worse_in_both(plan):
    for before, after in zip(plan.front, plan.front[1:], strict=False):
        assert before.tpot < after.tpot and before.rate < after.rate


def test_tighter_targets_and_longer_contexts_need_more_devices(served):
    def needed(traffic=TRAFFIC, **targets):
        return (
            serve_plan(replace(served, traffic=traffic), Targets(rate=100.0, **targets), worlds=2)
            .figures["devices"]
            .value
        )

    longer = Traffic(mix=(Requests(input=64_000, output=800, hit_rate=0.56),))
    mixed = Traffic(mix=(Requests(input=4000, output=800, hit_rate=0.56, share=0.9), replace(longer.mix[0], share=0.1)))
    assert needed(tpot=0.02) > needed(tpot=0.1)
    assert needed() < needed(mixed) < needed(longer)
    assert needed(Traffic(mix=TRAFFIC.mix, live=False)) < needed()


def test_more_rate_needs_devices_in_proportion(served):
    few, many = (serve_plan(served, Targets(tpot=0.05, rate=rate), worlds=2) for rate in (200.0, 4000.0))
    assert many.devices / few.devices == pytest.approx(20, rel=0.35)


def test_devices_are_divided_for_the_highest_rate(served):
    plan = serve_plan(served, Targets(tpot=0.05, devices=100), worlds=2)
    assert plan.devices <= 100
    assert plan.figures["requests_per_s"].value == pytest.approx(plan.rate)


def test_sizes_are_those_of_brute_force():
    prefills = {size: PrefillPoint(Pool(devices=size), 1.0, rate, 0.8) for size, rate in ((8, 900.0), (32, 1300.0))}
    decodes = {size: DecodePoint(Pool(devices=size), 1.0, 0.05, rate) for size, rate in ((16, 700.0), (64, 1000.0))}

    def carried(first, second, one, other):
        return min(first * one.pool.devices * one.rate / 1760, second * other.pool.devices * other.rate / 800)

    for devices in (24, 100, 333):
        best = max(
            carried(first, second, one, other)
            for one in prefills.values()
            for other in decodes.values()
            for first in range(1, devices // one.pool.devices + 1)
            for second in range(1, (devices - first * one.pool.devices) // other.pool.devices + 1)
        )
        assert for_devices(devices, 1760, 800, prefills, decodes).rate == pytest.approx(best)
    sized = for_rate(50.0, 1760, 800, prefills, decodes)
    fewest = min(size * math.ceil(50 * 1760 / (size * point.rate)) for size, point in prefills.items()) + min(
        size * math.ceil(50 * 800 / (size * point.rate)) for size, point in decodes.items()
    )
    taken = sized.prefill_instances * sized.prefill.pool.devices + sized.decode_instances * sized.decode.pool.devices
    assert taken == fewest
    with pytest.raises(ConfigError, match="at least 24 are needed"):
        for_devices(20, 1760, 800, prefills, decodes)


def test_layouts_fit_and_divide(served):
    found = list(pools(served, 64, prefill=False))
    assert {pool.devices for pool in found} == {16, 32, 64}
    assert all(64 % pool.tp == 0 and pool.devices % pool.tp == 0 for pool in found)


def test_the_best_layout_of_each_size_keeps_the_bound(served):
    points = decode_points(served, 64, 0.03)
    assert points and all(point.tpot <= 0.03 for point in points.values())


@pytest.mark.parametrize(
    ("changes", "targets", "words"),
    [
        ({}, {"tpot": 1e-4}, "--tpot 0.0001s: no layout is that fast; the fastest of those looked at takes"),
        ({}, {"ttft": 1e-3}, "--ttft 0.001s: no layout is that fast"),
        ({}, {"devices": 8}, "does not fit on 8 devices"),
        ({}, {"devices": 16}, "at least 32 are needed"),
        ({}, {"devices": 16, "rate": 1.0}, "give one, the other follows"),
        ({"precision": Precision(weights="fp4")}, {}, "precision.weights = 'fp4': H200 SXM does not compute in it"),
    ],
)
def test_what_cannot_be_planned_is_said_in_a_sentence(changes, targets, words, served):
    with pytest.raises(ConfigError) as error:
        serve_plan(replace(served, **changes), Targets(**targets), worlds=2)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_files_say_what_the_plan_says(plan):
    record = json.loads(json.dumps(plan_record(plan)))
    assert record["devices"] == plan.devices and record["figures"]["tpot"]["value"] == plan.figures["tpot"].value
    assert record["setup"]["decode"]["devices"] == plan.decode.devices
    rows = list(csv.DictReader(io.StringIO(front_csv(plan))))
    assert [float(row["tpot_s"]) for row in rows] == [point.tpot for point in plan.front]


class Page(HTMLParser):
    """Ids, references and images of a page."""

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.labels, self.opened = [], [], [], []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.ids += [named["id"]] if "id" in named else []
        self.links += [named[key] for key in ("href", "src") if named.get(key)]
        self.labels += [named["aria-label"]] if tag == "svg" else []


def test_the_page_needs_nothing_else_and_tells_its_pictures(plan):
    text = render(plan)
    page = Page()
    page.feed(text)
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.labels) == 8 and all(len(label) > 30 for label in page.labels)
    assert f"{plan.devices:,}" in text and "homegrown plan serve" in text
    assert front_plot(plan) == front_plot(plan)


def test_the_command(tmp_path, capsys):
    written = {name: tmp_path / f"plan.{name}" for name in ("json", "csv", "html")}
    files = [word for name, path in written.items() for word in (f"--{name}", str(path))]
    asked = "--model longcat-2.0 --cluster hgx-h200 --input 4000 --output 800 --hit-rate 0.56 --ttft 2s --tpot 50ms"
    assert run([*asked.split(), "--rate", "100/s", *files]) == 0
    said = capsys.readouterr().out
    assert "Pools" in said and "80 % interval" in said and "Throughput against latency" in said
    assert all(path.stat().st_size > 500 for path in written.values())
    assert json.loads(written["json"].read_text())["command"].startswith("homegrown plan serve --model longcat-2.0")


def test_the_command_on_other_chips_and_mixes(capsys):
    asked = "--model deepseek-v3 --cluster cloudmatrix-384 --mix 4000/800:0.7 32K/2000:0.3:0.9 --devices 128"
    assert run(asked.split()) == 0
    said = capsys.readouterr().out
    assert "70% with 4,000 tokens in" in said and "weights int8" in said


def test_the_command_with_a_deployment_of_ones_own(tmp_path, capsys):
    file = tmp_path / "mine.toml"
    file.write_text('tpot = "50 ms"\n[traffic]\ninput = 4000\noutput = 800\n[decode]\ndevices = 32\ntp = 1\n')
    assert run(["--setup", str(file)]) == 0
    assert "time per output token" in capsys.readouterr().out
    with pytest.raises(UsageError, match="not with --setup"):
        run(["--setup", str(file), "--json", str(tmp_path / "x.json")])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--model longcat-3", "no model 'longcat-3'"),
        ("--cluster hgx-h2000", "did you mean"),
        ("--tpot 50", "--tpot = '50': needs a unit"),
        ("--ttft 2GB", "--ttft"),
        ("--rate 100", "as in 100/s"),
        ("--input 4.5", "must be a whole number of tokens"),
        ("--hit-rate 2", "traffic.hit_rate = 2"),
        ("--model deepseek-v3 --hierarchical", "has no indexer"),
        ("--model llama-3-8b --draft-steps 2", "has no draft head"),
        ("--cluster atlas-800t-a2 --weights fp8", "does not compute in it"),
    ],
)
def test_the_command_refuses_in_a_sentence(words, said):
    with pytest.raises(ConfigError) as error:
        run(words.split())
    assert said in str(error.value) and "\n" not in str(error.value)

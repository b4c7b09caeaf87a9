"""Verdicts on the claims that ship with the package, against arithmetic done here by hand."""

from __future__ import annotations

import pytest

from homegrown.plan.audit import Audit, load, shipped
from homegrown.plan.audit.audit import Finding
from homegrown.plan.audit.checks import CONSISTENT, CONTRADICTORY, UNDECIDED, Case

HOUR, DAY = 3600, 86400


def case(audit: Audit, **choices: str) -> Case:
    return next(
        item for item in audit.cases if all(item.reading.choices[name] == choice for name, choice in choices.items())
    )


def outcome(found: Case, name: str) -> float:
    return found.outcomes[f"={name}"][0].likely.value


def finding(audit: Audit, *statements: str) -> Finding:
    return next(item for item in audit.findings if set(item.check.statements) == set(statements))


def verdicts(audit: Audit, ambiguity: str) -> dict[str, str]:
    return {item.choice: item.verdict for item in audit.choosings if item.ambiguity == ambiguity}


def test_all_of_them_are_audited(audited):
    assert len(shipped()) >= 13
    for name in shipped():
        claim = load(name)
        assert claim.title and claim.who and claim.about, name
        assert all(item.source and item.date for item in claim.statements), name
        assert audited(name).cases, name


class TestLongcat2:
    """1T tokens a day on 50,000 devices: 231 tokens/s and 72 TFLOP/s of a device at 8K without the draft head."""

    @pytest.fixture
    def audit(self, audited):
        return audited("longcat-2.0")

    def test_pace_and_rate_of_a_device(self, audit):
        usual = audit.cases[0]
        pace = 1e12 / DAY / 50_000
        assert outcome(usual, "pace_device") == pytest.approx(pace) == pytest.approx(231.48, abs=0.01)
        assert outcome(usual, "rate") == pytest.approx(pace * 311e9, rel=0.002) == pytest.approx(72.0e12, rel=0.003)

    @pytest.mark.parametrize(("card", "peak", "share"), [("package", 752e12, 0.096), ("die", 376e12, 0.192)])
    def test_utilisation_of_a_package_and_of_a_die(self, audit, card, peak, share):
        found = case(audit, card=card, count="sparse")
        assert outcome(found, "utilisation") == pytest.approx(72.0e12 / peak, rel=0.003)
        assert outcome(found, "utilisation") == pytest.approx(share, abs=0.0006)

    def test_utilisation_by_parameters_alone(self, audit):
        found = case(audit, card="package", count="parameters")
        assert outcome(found, "rate") == pytest.approx(231.48 * 6 * 48.4e9, rel=0.003)  # 66.7e12 by 48.0B

    def test_dense_attention_counts_more(self, audit):
        found = case(audit, card="package", count="dense")
        assert outcome(found, "rate") == pytest.approx(231.48 * 327e9, rel=0.003)

    def test_days_not_hours(self, audit):
        """50,000 devices for 30 to 40 days are 36 to 48 million hours, 1.5 to 2 million days."""
        found = finding(audit, "device-time", "days", "devices")
        by_choice = {row.choices["millions"]: row.check for row in found.rows}
        assert {name: check.verdict for name, check in by_choice.items()} == {
            "days": CONSISTENT, "hours": CONTRADICTORY, "hours-loosely": CONSISTENT,
        }  # fmt: skip
        least = 30 * DAY * 50_000 / 1.1
        assert by_choice["hours"].apart == pytest.approx(least / (1e7 * HOUR))
        assert verdicts(audit, "millions")["hours"] == CONTRADICTORY
        assert audit.usual == CONSISTENT

    def test_energy_is_twice_as_much_for_packages(self, audit):
        """41.6 million package-hours at 1.456 kW and a site's 1.1 to 1.3 over that."""
        package, die = (outcome(case(audit, card=card), "energy") / HOUR / 1e9 for card in ("package", "die"))
        hours = (30 * 40) ** 0.5 * 24 * 50_000
        assert hours * 1456 * 1.1 / 1e9 * 0.9 < package < hours * 1456 * 1.3 / 1e9 * 1.1
        assert package / die == pytest.approx(2, rel=0.03)

    def test_tokens_of_either_blog_fit_the_days(self, audit):
        assert verdicts(audit, "tokens") == {"35T": CONSISTENT, "30T": CONSISTENT}
        rows = {row.choices["tokens"]: row.check for row in finding(audit, "days", "pace", "faults", "tokens").rows}
        assert rows["35T"].implied.likely.value == pytest.approx(35 * DAY / (1 - 10 / 1440))

    def test_sizes_are_those_of_the_definition(self, audit):
        for name, number in (
            ("total", 1.638e12),
            ("active", 48.4e9),
            ("active-least", 33.1e9),
            ("active-most", 56.0e9),
        ):
            check = finding(audit, name).check
            assert check.verdict == CONSISTENT
            assert check.implied.likely.value == pytest.approx(number, rel=0.008)

    def test_knowing_the_card_tells_most_about_utilisation(self, audit):
        best = {}
        for item in audit.settlings:
            best.setdefault(item.outcome, item.key)
        assert best["=utilisation"] == "card"
        assert best["=energy"] == "card"
        assert best["=cost"] == "known price"

    def test_scores_tie_where_the_doubt_is_wider_than_the_gap(self, audit):
        found = {(pair.first.benchmark.items, pair.second.score.model): pair for pair in audit.comparisons}
        assert {key: pair.verdict for key, pair in found.items()} == {
            (731, "GPT-5.5"): "a tie", (731, "Opus 4.8"): "different", (300, "Opus 4.8"): "cannot be decided",
            (89, "Gemini"): "a tie", (89, "GPT-5.5"): "a tie", (89, "Opus 4.8"): "cannot be decided",
        }  # fmt: skip
        pro = found[731, "Opus 4.8"]
        error = ((0.595 * 0.405 + 0.692 * 0.308) / 731) ** 0.5
        assert (pro.gap, pro.error) == pytest.approx((-0.097, error))
        assert abs(pro.gap / error) > 3.8


class TestDeepseekV3:
    @pytest.fixture
    def audit(self, audited):
        return audited("deepseek-v3")

    def test_holds(self, audit):
        assert audit.usual == CONSISTENT
        assert verdicts(audit, "keys") == {"causal": CONSISTENT, "full": CONSISTENT}

    def test_three_routes_to_the_hours(self, audit):
        by_token = finding(audit, "hours-pretraining", "hours-per-token", "tokens").check
        assert by_token.implied.likely.value / HOUR == pytest.approx(14.8 * 180_000)
        assert by_token.verdict == CONSISTENT
        whole = finding(audit, "hours", "hours-pretraining", "hours-extension", "hours-post-training").check
        assert whole.implied.likely.value / HOUR == pytest.approx(2_788_000)
        assert whole.verdict == CONSISTENT
        days = 14.8e12 / (272.8e9 / DAY) / DAY
        assert days * 24 * 2048 == pytest.approx(2.664e6, rel=0.002)
        assert finding(audit, "hours-per-token", "devices", "pace").check.verdict == CONSISTENT

    def test_step_batch_and_pace(self, audit):
        check = finding(audit, "step", "batch", "pace").check
        assert check.implied.likely.value == pytest.approx(15360 * 4096 / (272.8e9 / DAY))
        assert check.verdict == CONSISTENT

    def test_the_draft_head_is_not_in_the_published_rate(self, audit):
        rows = {tuple(row.choices.values()): row.check for row in finding(audit, "rate", "devices", "pace").rows}
        pace = 272.8e9 / DAY / 2048
        assert rows["causal", "left-out"].implied.likely.value == pytest.approx(pace * 249.7e9, rel=0.004)
        assert rows["causal", "left-out"].verdict == CONSISTENT
        assert rows["causal", "counted"].implied.likely.value == pytest.approx(pace * 260e9, rel=0.004)
        assert rows["causal", "counted"].verdict == CONTRADICTORY
        assert rows["full", "left-out"].implied.likely.value == pytest.approx(432e12, rel=0.004)
        assert verdicts(audit, "draft") == {"left-out": CONSISTENT, "counted": CONTRADICTORY}

    def test_utilisation_is_of_the_bf16_peak(self, audit):
        check = finding(audit, "utilisation", "rate").check
        assert check.implied.likely.value == pytest.approx(385 / 989, abs=1e-9)
        assert check.verdict == CONSISTENT

    def test_cost_is_hours_times_an_assumed_rent_and_proves_nothing(self, audit):
        check = finding(audit, "hours", "cost", "price").check
        assert check.reason == "cost was calculated from hours, price"
        assert {item.statement for item in audit.untested} == {"price", "cost"}


class TestLlama405b:
    @pytest.fixture
    def audit(self, audited):
        return audited("llama-3.1-405b")

    def test_hours_follow_from_rate_and_availability(self, audit):
        rows = {
            row.choices["count"]: row.check for row in finding(audit, "hours", "availability", "rate", "tokens").rows
        }
        check = rows["definition"]
        rate = (380e12 * 430e12) ** 0.5
        assert check.implied.likely.value == pytest.approx(15.6e12 * 2.524e12 / rate / 0.9, rel=0.003)
        slowest = 15.65e12 * 2.524e12 * 1.01 / 380e12 / 0.9
        assert check.implied.possible.high == pytest.approx(slowest, rel=0.003)
        assert check.verdict == CONSISTENT

    def test_total_of_flops_leaves_attention_out(self, audit):
        rows = {row.choices["count"]: row.check for row in finding(audit, "flops", "tokens").rows}
        assert rows["parameters"].implied.likely.value == pytest.approx(6 * 405.85e9 * 15.6e12, rel=0.006)
        assert rows["definition"].implied.likely.value == pytest.approx(2.524e12 * 15.6e12, rel=0.003)
        assert (rows["parameters"].verdict, rows["definition"].verdict) == (CONSISTENT, CONTRADICTORY)

    @pytest.mark.parametrize(("part", "tflops", "percent"), [("8k-small", 430, 43), ("8k", 400, 41), ("128k", 380, 38)])
    def test_utilisation_of_each_stage(self, audit, part, tflops, percent):
        check = finding(audit, f"utilisation-{part}", f"rate-{part}").check
        assert check.implied.likely.value == pytest.approx(tflops / 989)
        assert abs(tflops / 989 * 100 - percent) < 1
        assert check.verdict == CONSISTENT


def test_llama_interruptions_by_faulty_gpus_are_35_percent_not_30(audited):
    audit = audited("llama-3.1-interruptions")
    check = finding(audit, "interruptions", "faulty-gpu", "faulty-gpu-share").check
    assert check.implied.likely.value == pytest.approx(148 / 0.301)
    assert check.apart == pytest.approx((147.5 / 0.3015) / 419.5)
    share = 148 / 419
    assert share == pytest.approx(0.353, abs=0.001)
    assert audit.verdict == CONTRADICTORY


class TestBloom:
    @pytest.fixture
    def audit(self, audited):
        return audited("bloom-energy")

    def test_energy_is_hours_times_rated_power(self, audit):
        watts = 433_196 / 1_082_990 * 1000
        assert watts == pytest.approx(400, abs=0.01)
        checks = [check for item in audit.cases for check in item.checks if "energy" in check.statements]
        metered = [check for check in checks if any(leaf.name == "known power" for leaf in check.implied.leaves)]
        assert metered and all("nobody read a meter" in check.reason for check in metered)
        assert not any(check.verdict == CONTRADICTORY for check in metered)
        assert "energy" in {item.statement for item in audit.untested}

    def test_a_site_would_have_used_more(self, audit):
        outcome = audit.cases[0].outcomes["=energy"][0].likely
        assert outcome.low / 3.6e6 > 433_196 * 1.2

    def test_rate_counts_recomputation(self, audit):
        rows = {row.choices["rate"]: row.check for row in finding(audit, "rate", "batch", "devices", "step").rows}
        per_device = 2048 * 2048 / (105 * 106) ** 0.5 / 384
        attention = 12 * 70 * 14336 * 2048  # all keys: two products of two, three passes, over 70 layers
        model = per_device * (6 * 176.2e9 + attention)
        assert rows["left-out"].implied.likely.value == pytest.approx(model, rel=0.012)
        assert rows["included"].implied.likely.value == pytest.approx(model * 4 / 3, rel=0.012)
        assert (rows["included"].verdict, rows["left-out"].verdict) == (CONSISTENT, CONTRADICTORY)

    def test_hours_are_devices_times_days(self, audit):
        check = finding(audit, "hours", "days", "devices").check
        assert check.implied.likely.value == pytest.approx(384 * 118 * DAY)
        assert check.verdict == CONSISTENT

    def test_a_metered_energy_is_put_to_the_test(self, audit_table):
        """The same claim with an energy that is not the rated power's is compared with what such a site draws."""
        table = {
            "title": "metered", "basis": {"cluster": "jean-zay-a100"},
            "statement": [
                {"id": "hours", "quantity": "device_time", "value": "1,082,990 GPU-hours", "says": "hours"},
                {"id": "energy", "quantity": "energy", "value": "120 MWh", "says": "energy"},
            ],
        }  # fmt: skip
        audit = audit_table(table)
        assert audit.verdict == CONTRADICTORY
        assert not audit.findings[0].check.reason


class TestPangu:
    @pytest.fixture
    def audit(self, audited):
        return audited("pangu-ultra-moe")

    def test_no_standard_count_gives_thirty_percent(self, audit):
        assert audit.usual == CONTRADICTORY
        assert verdicts(audit, "keys")["causal"] == CONTRADICTORY
        assert verdicts(audit, "peak")["376"] == CONTRADICTORY
        assert verdicts(audit, "sequence")["4K"] == CONTRADICTORY
        fits = [tuple(item.reading.choices[name] for name in ("peak", "sequence", "keys")) for item in audit.cases
                if item.verdict == CONSISTENT]  # fmt: skip
        assert set(fits) == {("280", "8K", "full"), ("313", "8K", "full")}

    def test_what_it_is_by_a_standard_count(self, audit):
        rows = {
            tuple(row.choices.values()): row.check
            for row in finding(audit, "utilisation", "devices", "pace", "peak").rows
        }
        usual = rows["280", "4K", "causal", "left-out"]
        assert usual.implied.likely.value == pytest.approx(1.46e6 / 6000 * 265e9 / 280e12, rel=0.02)
        assert usual.verdict == CONTRADICTORY

    def test_gain_and_throughput_agree_whatever_the_basis(self, audit):
        statements = ("utilisation", "devices", "pace", "utilisation-before", "devices-before", "pace-before")
        check = finding(audit, *statements).check
        assert check.implied.likely.value == pytest.approx(0.189 * (1.46 / 6) / (0.61 / 4))
        assert check.verdict == CONSISTENT


def test_glm_press_claim_cannot_be_decided_and_what_would(audited):
    audit = audited("glm-5-100k-ascend")
    assert {item.verdict for item in audit.cases} == {UNDECIDED}
    assert next(item.mark for item in audit.claim.statements if item.id == "devices") == "C"
    would = {item.statement: item.would for item in audit.untested}
    assert would["devices"] == ("time", "pace")
    flops = 6 * 40e9 * 28.5e12
    days = audit.cases[0].outcomes["=time"][0].likely
    assert days.holds(flops * 1.05 / (100_000 * 320e12 * 0.38) / 0.95)


def test_longcat_flash_needs_the_number_of_devices(audited):
    audit = audited("longcat-flash")
    assert audit.verdict == UNDECIDED
    rate = audit.cases[0].outcomes["=rate"][0].likely
    pace = 20e12 / (30 * DAY * 0.9848)
    assert pace == pytest.approx(7.8e6, rel=0.01)
    attention = 3 * 56 * 64 * 2 * (192 + 128) * 8192 / 2  # of 56 sublayers with 64 heads, over half the sequence
    work = 6 * 27.1e9 + attention
    assert rate.low == pytest.approx(20e12 / (30.5 * DAY * 0.98485) / 100_000 * work / 1.01, rel=0.005)
    assert rate.high == pytest.approx(25e12 / (29.5 * DAY * 0.98475) / 10_000 * work * 1.01, rel=0.005)
    best = next(item for item in audit.settlings if item.outcome == "=device_time")
    assert best.key == "devices"


def test_hours_or_days(audited):
    assert verdicts(audited("hours-or-days"), "unit") == {"days": CONSISTENT, "hours": CONTRADICTORY}


def test_a_pod_of_384_holds_packages(audited):
    audit = audited("card-or-die")
    assert verdicts(audit, "accelerator") == {"package": CONSISTENT, "die": CONTRADICTORY}
    rows = {row.choices["accelerator"]: row.check for row in finding(audit, "devices", "memory", "pod-memory").rows}
    assert rows["die"].implied.likely.value == pytest.approx(49_200 / 64)


def test_working_weeks_would_need_more_than_the_chip_has(audited):
    audit = audited("arctic-weeks")
    assert verdicts(audit, "week") == {"calendar": CONSISTENT, "working": CONTRADICTORY}
    found = case(audit, week="calendar")
    flops = 3.5e12 * 6 * 17e9  # attention left out: a lower bound within a tenth
    rate = flops / (3000 * 7 * DAY)
    assert 1 <= outcome(found, "rate") * 0.95 / rate < 1.12  # 0.95: the usual share of the time


def test_llama_1_65b_holds(audited):
    audit = audited("llama-1-65b")
    assert audit.verdict == CONSISTENT
    pace = finding(audit, "pace", "days", "devices", "tokens").check.implied.likely.value
    assert pace == pytest.approx(1.4e12 / (21 * DAY * 2048) / 0.95)
    days = 1.4e12 / (380 * 2048) / DAY
    assert days == pytest.approx(20.8, abs=0.05)


def test_minimax_supposes_two_dollars_an_hour(audited):
    audit = audited("minimax-m1-rl")
    price = outcome(audit.cases[0], "price") * HOUR
    assert price == pytest.approx(534_700 / (512 * 21 * 24)) == pytest.approx(2.07, abs=0.005)

"""How verdicts, readings, parts and the value of information come about, on claims small enough for paper."""

from __future__ import annotations

import pytest

from homegrown.plan.audit.checks import CONSISTENT, CONTRADICTORY, UNDECIDED
from tests.plan.audit.conftest import statement

DAY = 86400


def run(*statements: dict, **more: object) -> dict:
    return {"title": "a run", "statement": list(statements), **more}


def test_three_outcomes_of_one_check(audit_table):
    said = statement("devices", "devices", 1000), statement("days", "time", "10 ± 1 days")
    assert audit_table(run(*said, statement("hours", "device_time", "240K device-hours"))).verdict == CONSISTENT
    assert audit_table(run(*said, statement("hours", "device_time", "300K device-hours"))).verdict == CONTRADICTORY
    loose = statement("devices", "devices", "500 to 2000"), statement("days", "time", "10 days")
    assert audit_table(run(*loose, statement("hours", "device_time", "240K device-hours"))).verdict == UNDECIDED


def test_how_far_apart(audit_table):
    audit = audit_table(
        run(statement("devices", "devices", "1000 ± 100"), statement("days", "time", "10 ± 1 days"),
            statement("hours", "device_time", "400 ± 10K device-hours"))
    )  # fmt: skip
    (finding,) = audit.findings
    assert finding.check.apart == pytest.approx(390_000 / (1100 * 11 * 24), rel=1e-3)
    assert set(finding.check.statements) == {"devices", "days", "hours"}
    assert set(audit.blame) == {"devices", "days", "hours"}


def test_nothing_is_contradicted_by_rounding_alone(audit_table):
    audit = audit_table(
        run(statement("devices", "devices", 333), statement("days", "time", "3.3 days"),
            statement("hours", "device_time", "26K device-hours"))
    )  # fmt: skip
    assert audit.verdict == CONSISTENT


def test_no_device_does_more_than_its_peak(audit_table):
    said = (
        statement("tokens", "tokens", "1.00T"),
        statement("active", "active", "100B"),
        statement("devices", "devices", 1000),
    )  # fmt: skip
    basis = {"chip": "h100", "count": "parameters"}
    hours = 6 * 100e9 * 1e12 / (1000 * 989e12) / 3600  # at the peak, without a pause: 168
    audit = audit_table(run(*said, statement("time", "time", f"{hours:.1f} h"), basis=basis))
    assert audit.verdict == CONTRADICTORY
    assert audit.cases[0].outcomes["=utilisation"][0].possible.low == pytest.approx(1.0, rel=0.12)
    audit = audit_table(run(*said, statement("time", "time", f"{hours * 2.5:.1f} h"), basis=basis))
    assert audit.verdict == CONSISTENT


def test_fp8_products_may_exceed_the_bf16_ceiling(audit_table):
    said = statement("rate", "rate", "1000 TFLOP/s"), statement("devices", "devices", 8)
    assert audit_table(run(*said, basis={"chip": "h100"})).verdict == CONTRADICTORY
    assert audit_table(run(*said, basis={"chip": "h100", "precision": "fp8"})).verdict != CONSISTENT
    within = statement("rate", "rate", "900 TFLOP/s")
    assert audit_table(run(within, basis={"chip": "h100", "precision": "fp8"})).verdict != CONTRADICTORY
    assert audit_table(run(within, basis={"chip": "h100"})).verdict == CONTRADICTORY  # 91 % of it: none gets there


def test_closed_models_are_counted_by_their_parameters(audit_table):
    said = statement("tokens", "tokens", "1.00T"), statement("active", "active", "100B")
    audit = audit_table(run(*said, statement("flops", "flops", "6.1e23 FLOP")))
    assert audit.verdict == CONSISTENT
    assert audit.findings[0].check.implied.likely.low == pytest.approx(6 * 0.995e12 * 99.5e9)
    assert audit_table(run(*said, statement("flops", "flops", "5.5e23 FLOP"))).verdict == CONTRADICTORY
    assert audit_table(run(*said, statement("flops", "flops", "1.3e24 FLOP"))).verdict == CONTRADICTORY


def test_parts_inherit_devices_and_add_up(audit_table):
    parts = [{"name": "a", "title": "a"}, {"name": "b", "title": "b"}]
    said = [
        statement("devices", "devices", 100),
        statement("hours-a", "device_time", "2400 device-hours", part="a"),
        statement("days-a", "time", "1.0 days", part="a"),
        statement("hours-b", "device_time", "600 device-hours", part="b"),
        statement("hours", "device_time", "3000 device-hours"),
    ]
    audit = audit_table(run(*said, part=parts, parts_are_all=True))
    assert audit.verdict == CONSISTENT
    checked = {frozenset(item.check.statements) for item in audit.findings}
    assert {frozenset({"devices", "hours-a", "days-a"}), frozenset({"hours", "hours-a", "hours-b"})} <= checked
    said[-1] = statement("hours", "device_time", "4000 device-hours")
    audit = audit_table(run(*said, part=parts, parts_are_all=True))
    assert audit.verdict == CONTRADICTORY
    assert audit_table(run(*said, part=parts)).verdict == CONSISTENT  # there may be more than these two


def test_parts_with_devices_of_their_own_do_not_share_them(audit_table):
    parts = [{"name": "a", "title": "a"}]
    said = statement("devices", "devices", 100), statement("devices-a", "devices", 50, part="a")
    assert audit_table(run(*said, part=parts, basis={"cluster": "hgx-h100"})).verdict == UNDECIDED


def test_time_lost_to_faults_is_time_not_trained(audit_table):
    said = (
        statement("tokens", "tokens", "9.0T"),
        statement("pace", "pace", "1.00T tokens/day"),
        statement("days", "time", "10.0 days"),
    )  # fmt: skip
    assert audit_table(run(*said, statement("lost", "lost", "144 min a day"))).verdict == CONSISTENT
    assert audit_table(run(*said, statement("lost", "lost", "20 min a day"))).verdict == CONTRADICTORY


def test_failure_rate_nodes_and_interval(audit_table):
    """419 in 54 days on 2,048 nodes are one in 3.09 hours and 3.79 per 1000 node-days (arXiv 2407.21783)."""
    said = [
        statement("count", "interruptions", 419), statement("window", "window", "54 days"),
        statement("devices", "devices", 16384), statement("interval", "fault_interval", "3.09 h"),
        statement("rate", "fault_rate", "3.79 per 1000 node-days"),
    ]  # fmt: skip
    audit = audit_table(run(*said, basis={"cluster": "hgx-h100"}))
    assert audit.verdict == CONSISTENT
    said[-1] = statement("rate", "fault_rate", "6.50 per 1000 node-days")
    assert audit_table(run(*said, basis={"cluster": "hgx-h100"})).verdict == CONTRADICTORY


def test_only_the_choice_that_matters_is_told(audit_table):
    reading = [
        {"name": "unit", "question": "unit", "choice": [
            {"name": "days", "says": "d"},
            {"name": "hours", "says": "h", "statements": {"hours": "10.0 device-days"}}]},
        {"name": "colour", "question": "colour", "choice": [
            {"name": "red", "says": "r"}, {"name": "blue", "says": "b"}]},
    ]  # fmt: skip
    said = (
        statement("devices", "devices", 10),
        statement("days", "time", "10.0 days"),
        statement("hours", "device_time", "100.0 device-days"),
    )
    audit = audit_table(run(*said, reading=reading))
    (finding,) = audit.findings
    assert [dict(row.choices) for row in finding.rows] == [{"unit": "days"}, {"unit": "hours"}]
    assert finding.verdict is None
    assert {(item.ambiguity, item.choice): item.verdict for item in audit.choosings} == {
        ("unit", "days"): CONSISTENT, ("unit", "hours"): CONTRADICTORY,
        ("colour", "red"): CONSISTENT, ("colour", "blue"): CONSISTENT,
    }  # fmt: skip


def test_without_drops_a_statement(audit_table):
    reading = [
        {"name": "whose", "question": "whose", "choice": [
            {"name": "both", "says": "b"}, {"name": "one", "says": "o", "without": ["days"]}]},
    ]  # fmt: skip
    said = (
        statement("devices", "devices", 10),
        statement("days", "time", "10 days"),
        statement("hours", "device_time", "9 device-days"),
    )
    audit = audit_table(run(*said, reading=reading))
    assert [case.verdict for case in audit.cases] == [CONTRADICTORY, UNDECIDED]


class TestSettling:
    def test_what_is_known_least_tells_most(self, audit_table):
        said = statement("devices", "devices", "100 to 200"), statement("days", "time", "10 to 50 days")
        audit = audit_table(run(*said))
        found = {item.key: item for item in audit.settlings if item.outcome == "=device_time"}
        assert found["days"].before.factor == pytest.approx(10)
        assert found["days"].factor == pytest.approx(2)
        assert found["devices"].factor == pytest.approx(5)
        assert found["days"].gain + found["devices"].gain == pytest.approx(1)  # logarithms of factors add up
        assert next(item.key for item in audit.settlings) == "days"

    def test_one_figure_that_would_put_statements_to_a_test(self, audit_table):
        audit = audit_table(run(statement("devices", "devices", 100), statement("days", "time", "10 days")))
        assert {item.statement: item.would for item in audit.untested} == {
            "devices": ("device_time",), "days": ("device_time",),
        }  # fmt: skip

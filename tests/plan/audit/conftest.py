from __future__ import annotations

from collections.abc import Callable

import pytest

from homegrown.plan.audit import Audit, audit, load
from homegrown.plan.audit.benchmarks import load_benchmarks
from homegrown.plan.audit.files import claim
from homegrown.plan.audit.known import Known
from homegrown.plan.catalogue import Catalogue


@pytest.fixture(scope="session")
def known() -> Known:
    return Known(Catalogue.load())


@pytest.fixture(scope="session")
def audited(known: Known) -> Callable[[str], Audit]:
    """Shipped claims, each audited once."""
    done: dict[str, Audit] = {}

    def of(name: str) -> Audit:
        if name not in done:
            done[name] = audit(load(name), known, load_benchmarks())
        return done[name]

    return of


@pytest.fixture(scope="session")
def audit_table(known: Known) -> Callable[[dict], Audit]:
    """A claim that a test makes up."""
    return lambda table: audit(claim(table, "made-up.toml", "made-up"), known, load_benchmarks())


def statement(id_: str, quantity: str, value: str | float, **more: object) -> dict:
    return {"id": id_, "quantity": quantity, "value": value, "says": f"{id_} is {value}.", **more}

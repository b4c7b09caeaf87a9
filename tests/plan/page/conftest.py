"""One made-up plan and its page, drawn once."""

from pathlib import Path

import pytest

from homegrown.plan.page import write_plan_page
from tests.plan.made_plan import made_plan


@pytest.fixture(scope="session")
def plan_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.html"
    write_plan_page(made_plan(), path)
    return path

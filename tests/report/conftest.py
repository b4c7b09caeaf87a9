"""One made-up finished run and its page, shared by the tests that only look at them."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_tree import Node, parse
from synthetic_run import write_run

from homegrown.report import write_report


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "quickstart"
    write_run(path)
    return path


@pytest.fixture(scope="session")
def page_path(finished_run: Path) -> Path:
    return write_report(finished_run)


@pytest.fixture(scope="session")
def page(page_path: Path) -> Node:
    return parse(page_path.read_text("utf-8"))

"""`homegrown report`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from homegrown.cli.report import SUMMARY, run
from homegrown.report import ReportError


def test_it_prints_where_the_page_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "environment.json").write_text('{"python": "3.11.7"}')
    assert run([str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert run([str(tmp_path), "--out", str(tmp_path / "other.html")]) == 0
    assert (tmp_path / "other.html").read_bytes() == (tmp_path / "report.html").read_bytes()


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="not a run directory"):
        run([str(tmp_path)])


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "homegrown report" in shown
    assert "RUN" in shown
    assert "--out" in shown
    assert SUMMARY
    assert "\n" not in SUMMARY


def test_reporting_does_not_load_torch() -> None:
    code = "import sys, homegrown.cli.report, homegrown.report, homegrown.ledger; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

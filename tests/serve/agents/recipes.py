"""The blocks of code of docs/serving.md, as they stand there, to be run against a server of a test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"
ADDRESS = "http://127.0.0.1:8000"
"""Where the page's server is."""


def blocks(heading: str, *languages: str) -> list[str]:
    """The code in a section, in order.

    Args:
        heading: of the section, without its marks.
        languages: only code of these; by default of any.
    """
    section = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,4}} |\Z)", PAGE.read_text("utf-8"), re.M | re.S)
    assert section, f"docs/serving.md has no section {heading!r}"
    found = re.findall(r"^```(\w+)\n(.*?)^```$", section[2], re.M | re.S)
    assert found, f"the section {heading!r} of docs/serving.md has no code"
    return [code for language, code in found if not languages or language in languages]


def command(name: str) -> str:
    """The path of an agent's command; without it the test is skipped."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"`{name}` is not installed here")
    return path


def run(script: str, url: str, folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """What a recipe prints, run in a folder and with a home of its own, against a server at `url`."""
    home = folder.parent / f"{folder.name}-home"
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "OPENAI_"))}
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace(ADDRESS, url)],
        cwd=folder,
        env={**kept, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout

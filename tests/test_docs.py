"""What the documents say is there: commands, files, links, configuration."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from homegrown.cli.main import COMMANDS
from homegrown.config import TrainConfig, build, overlay, preset_table

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_named_exists(page: Path) -> None:
    known = {command.name for group in COMMANDS.values() for command in group}
    code = re.findall(r"```.*?```|`[^`\n]+`", page.read_text("utf-8"), re.DOTALL)
    named = {word for text in code for word in re.findall(r"\bhomegrown ([a-z]+)\b", text)}
    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    sources = [path for path in re.findall(r"`(src/homegrown/[\w/.*-]*)`", text) if "*" not in path]
    for target in [*(page.parent / link for link in links), *(ROOT / path for path in sources)]:
        assert target.exists(), f"{page.name} names {target}, which is not there"


def test_modules_named_in_the_architecture_guide_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = set(re.findall(r"`((?:model|ops|train|config)/\w+\.py)", text))
    assert len(named) > 10
    assert [name for name in named if not (ROOT / "src" / "homegrown" / name).exists()] == []


def test_the_readme_holds_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert "pip install -e . && homegrown quickstart" in text
    assert 'pip install -e ".[dev]" && pytest' in text


def test_the_example_configuration_is_valid() -> None:
    text = (ROOT / "docs" / "training.md").read_text("utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    table = tomllib.loads(example)
    preset = table["model"].pop("preset")
    config = build(TrainConfig, overlay({"model": preset_table(preset)}, table), "docs/training.md")
    assert config.model.routed_scaling_factor == 2.5
    assert config.data.seq_len == 256

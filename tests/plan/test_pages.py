"""What the pages about planning show: commands with their flags, examples with what they print, files of one's own."""

import re
import shlex
from pathlib import Path

import pytest

from homegrown.cli.audit import run as audit
from homegrown.cli.plan import SUBCOMMANDS
from homegrown.cli.plan import run as plan
from homegrown.plan.audit.quantities import KINDS
from homegrown.plan.catalogue import Catalogue

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("planning*.md")), ROOT / "docs/auditing.md"]
PLANNING = (ROOT / "docs/planning.md").read_text("utf-8")
WIDTH = "112"
"""Columns of the terminal that the examples were printed in."""


def commands(text: str) -> list[list[str]]:
    """Words of every `homegrown plan` and `homegrown audit` in code, without `homegrown`."""
    fences = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    code = [*fences, *re.findall(r"`([^`\n]+)`", rest), *re.findall(r"^ {4}.*$", rest, re.MULTILINE)]
    lines = "\n".join(code).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines if re.match(r"\s*homegrown (plan|audit)\b", line)]
    return [found[1:] for found in words]


def flags_of(capsys: pytest.CaptureFixture[str], words: list[str]) -> set[str]:
    """Flags that the help of a command names."""
    command, argv = (
        (audit, []) if words[0] == "audit" else (plan, words[1:2] if words[1:2] and words[1] in SUBCOMMANDS else [])
    )
    if "--from-run" in words:
        argv = ["--from-run", "x"]
    with pytest.raises(SystemExit) as done:
        command([*argv, "--help"])
    assert done.value.code == 0
    return set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_exist(page, capsys):
    found = commands(page.read_text("utf-8"))
    assert found
    for words in found:
        used = {word for word in words if word.startswith("--")}
        assert used <= flags_of(capsys, words), " ".join(words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "columns"),
    [("homegrown plan --model longcat-2.0", WIDTH), ("homegrown plan --model deepseek-v3", WIDTH),
     ("homegrown plan serve", WIDTH)],
)  # fmt: skip
def test_examples_print_what_is_shown(start, columns, capsys, monkeypatch):
    """Every line of the first block of text behind the command is printed today; … stands for what was left out."""
    monkeypatch.setenv("COLUMNS", columns)
    (words,) = [words for words in commands(PLANNING) if " ".join(["homegrown", *words]).startswith(start)]
    behind = PLANNING[PLANNING.index(f"```sh\n{start}") :]
    shown = re.search(r"```text\n(.*?)```", behind, re.DOTALL)
    assert shown is not None
    assert plan(words[1:]) == 0
    printed = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    lines = [" ".join(line.split()) for line in shown[1].splitlines()]
    assert [line for line in lines if line not in printed | {"…", ""}] == []


def test_modules_named_are_there():
    named = set(re.findall(r"`plan/(\w+\.py|\w+/)`", PLANNING))
    assert len(named) > 6
    assert [name for name in named if not (ROOT / "src/homegrown/plan" / name).exists()] == []


def test_files_of_ones_own(tmp_path, capsys):
    """The chip, the cluster, the prices and the model of planning-data.md plan a run together."""
    text = (ROOT / "docs/planning-data.md").read_text("utf-8")
    (tmp_path / "models").mkdir()
    files = {"A chip": "chips", "A cluster": "clusters", "Prices": "prices", "A model": "models/mine-7b"}
    for chapter in text.split("\n## ")[1:]:
        title, _, rest = chapter.partition("\n")
        if title in files:
            lines = re.findall(r"^(?: {4}(.*))?$", rest, re.MULTILINE)
            (tmp_path / f"{files.pop(title)}.toml").write_text("\n".join(lines), "utf-8")
    assert files == {}
    catalogue = Catalogue.load(tmp_path)
    assert catalogue.cluster("x1-nodes").chip.title == "X1"
    assert catalogue.chip("h100-94gb").memory.value > catalogue.chip("h100").memory.value
    asked = "--model mine-7b --cluster x1-nodes --devices 64 --tokens 1T --batch 4M --worlds 1"
    assert plan(["--data", str(tmp_path), *asked.split()]) == 0
    assert "Cost" in capsys.readouterr().out


def test_a_claim_of_ones_own(tmp_path, capsys):
    """The claim of auditing.md, with figures and a relation of its own, is audited; all quantities are named there."""
    text = (ROOT / "docs/auditing.md").read_text("utf-8")
    table, more = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    relation, figures = more.split("\n", 1)
    path = tmp_path / "claim.toml"
    path.write_text(f"{relation}\n{table}\n{figures}", "utf-8")
    assert audit([str(path)]) == 0
    said = capsys.readouterr().out
    assert "A run in one line" in said
    assert "The sentence in your own words." in said
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []

from __future__ import annotations

from pathlib import Path

import pytest

from homegrown.cli import data, tokenizer
from homegrown.cli.main import main
from homegrown.data import TokenDataset
from homegrown.tokenizer import Tokenizer


def test_tokenizer_then_data(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [str(corpus), "--held-fraction", "0.2"]
    assert tokenizer.run([*common, "--out", str(tmp_path / "tok"), "--vocab-size", "350"]) == 0
    assert "350 ids" in capsys.readouterr().out
    assert data.run([*common, "--out", str(tmp_path / "one"), "--tokenizer", str(tmp_path / "tok")]) == 0
    shown = capsys.readouterr().out
    assert data.run([*common, "--out", str(tmp_path / "two"), "--vocab-size", "350"]) == 0
    one, two = TokenDataset.open(tmp_path / "one"), TokenDataset.open(tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    assert one.tokenizer().digest == Tokenizer.from_dir(tmp_path / "tok").digest
    assert f"fingerprint: {one.fingerprint}" in shown
    assert f"{one.train.tokens:,}" in shown
    assert "left out: nothing" in shown


def test_a_smaller_vocabulary_than_asked_for_is_said(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        data.run([str(corpus), "--out", str(tmp_path / "out"), "--held-fraction", "0.2", "--vocab-size", "50000"]) == 0
    )
    assert "ids, not 50,000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        ([], "no corpus named"),
        (["stdlib", "--vocab-size", "5"], "vocab_size = 5: must be at least"),
        (["stdlib", "--held-fraction", "2"], "held fraction 2.0"),
    ],
)
@pytest.mark.parametrize("command", ["data", "tokenizer"])
def test_mistakes_are_one_sentence(
    command: str, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *arguments, "--out", str(tmp_path / "out")]) == 1
    assert f"homegrown {command}: {message}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_existing_target_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("data", "tokenizer"):
        assert main([command, "stdlib", "--out", str(tmp_path)]) == 1
        assert f"{tmp_path} exists already" in capsys.readouterr().err


@pytest.mark.parametrize("command", [data, tokenizer])
def test_help_explains(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.run(["--help"])  # type: ignore[attr-defined]
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "homegrown data stdlib" in shown
    assert "--held-fraction" in shown
    assert "standard library" in shown

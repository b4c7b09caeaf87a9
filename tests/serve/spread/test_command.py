"""`homegrown serve` with several processes."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from homegrown.cli.main import main
from tests.cli.test_serve import ASK, FLAGS, serving
from tests.parallel.spawn import free_port
from tests.serve.tiny import tiny_directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_directory(tmp_path_factory.mktemp("served"))


def answer(server) -> str:
    chat = server.openai(timeout=60).chat.completions.create(**ASK, max_tokens=8, temperature=0)
    return chat.choices[0].message.content


@pytest.fixture(scope="module")
def expected(directory: Path) -> str:
    with serving(directory) as server:
        return answer(server)


def test_mistakes(directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, said in (
        (("--tp", "0"), "--tp 0: must be at least 1"),
        (("--prefill-workers", "-1"), "--prefill-workers -1: must be at least 0"),
    ):
        assert main(["serve", str(directory), *flags]) == 2
        assert said in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["serve", str(directory), "--prefill-workers", "1"]) == 2
    assert "these are processes of one host" in capsys.readouterr().err


def test_a_model_that_does_not_divide(directory: Path) -> None:
    command = [sys.executable, "-m", "homegrown", "serve", str(directory), *FLAGS, "--ep", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "parallel.ep = 4: must divide model.n_routed_experts = 6" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_prompts_apart_from_answers(directory: Path, expected: str) -> None:
    with serving(directory, "--prefill-workers", "1") as server:
        assert "1, for answers; 1 x as many for prompts" in server.said
        assert answer(server) == expected
        text = urllib.request.urlopen(f"{server.url}/metrics", timeout=10).read().decode()
        lines = (line.rpartition(" ") for line in text.splitlines() if line.startswith("homegrown:"))
        metrics = {name.partition("{")[0]: float(value) for name, _, value in lines}
        assert metrics["homegrown:prefill_workers"] == 1
        assert metrics["homegrown:transferred_tokens_total"] > 0
        assert metrics["homegrown:lost_prompts_total"] == 0


@pytest.mark.slow
def test_two_ranks(directory: Path, expected: str) -> None:
    with serving(directory, "--tp", "2", "--ep", "2") as server:
        assert "2, tp 2, ep 2" in server.said
        assert answer(server) == expected


@pytest.mark.slow
def test_ranks_of_a_launcher(directory: Path, expected: str) -> None:
    """As torchrun starts them on two hosts: the first serves, the second runs along and ends when the first does."""
    common = {
        "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    command = [sys.executable, "-m", "homegrown", "serve", str(directory), *FLAGS, "--tp", "2"]
    environment = {**os.environ, **common, "RANK": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as other:
        with serving(directory, "--tp", "2", RANK="0", **common) as server:
            assert answer(server) == expected
            assert other.poll() is None
        assert other.wait(30) == 1
        assert "the first rank of the replica has ended" in other.stderr.read()

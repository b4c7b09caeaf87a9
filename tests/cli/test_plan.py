"""`homegrown plan` as users type it: plans, files, help, listings, and one sentence for each mistake."""

from __future__ import annotations

import csv
import json
import shlex

import pytest

from homegrown.cli.main import main
from homegrown.cli.plan import SUBCOMMANDS

RUN = "--cluster hgx-h100 --devices 64 --tokens 100B --batch 4M --worlds 4 --best 2"
MODEL = "--model llama-3-8b"


def plan(line: str) -> int:
    return main(["plan", *shlex.split(line)])


class TestPlan:
    def test_says_what_the_run_comes_to(self, capsys):
        assert plan(f"{MODEL} {RUN}") == 0
        out = capsys.readouterr().out
        for words in (
            "Llama 3 8B on 64 devices",
            "Wall time",
            "Utilisation is a share",
            "Memory",
            "Assumed",
            "4.0M tokens",
        ):
            assert words in out

    def test_writes_files(self, tmp_path, capsys):
        files = " ".join(f"--{kind} {tmp_path}/plan.{kind}" for kind in ("json", "csv", "html"))
        assert plan(f"{MODEL} {RUN} {files}") == 0
        table = json.loads((tmp_path / "plan.json").read_text())
        best = table["stages"][0]["best"]
        assert best["layout"]["devices"] <= 64
        assert table["command"].startswith("homegrown plan --model llama-3-8b")
        with (tmp_path / "plan.csv").open() as lines:
            rows = list(csv.DictReader(lines))
        assert [row["rank"] for row in rows] == ["1", "2"]
        assert float(rows[0]["step_s"]) == best["time"]["seconds"]
        page = (tmp_path / "plan.html").read_text()
        assert "Days against devices" in page
        assert 'src="http' not in page and '<link rel="stylesheet"' not in page
        assert f"written: {tmp_path}/plan.json" in capsys.readouterr().out

    def test_pinned_sizes_are_kept(self, tmp_path, capsys):
        assert plan(f"{MODEL} {RUN} --tp 2 --pp 4 --schedule 1f1b --recompute full --json {tmp_path}/p.json") == 0
        layout = json.loads((tmp_path / "p.json").read_text())["stages"][0]["best"]["layout"]
        assert [layout[name] for name in ("tp", "pp", "schedule", "recompute")] == [2, 4, "1f1b", "full"]

    def test_stages_of_growing_sequences(self, capsys):
        line = RUN.replace("--tokens 100B", "--stages 8K:90B,32K:10B")
        assert plan(f"{MODEL} {line}") == 0
        out = capsys.readouterr().out
        assert "8K" in out and "32K" in out and "together" in out

    def test_a_model_of_ones_own(self, tmp_path, capsys):
        (tmp_path / "mine.toml").write_text('[model]\npreset = "small"\nnum_layers = 6\n')
        assert plan(f"--model {tmp_path}/mine.toml {RUN}") == 0
        assert "mine on 64 devices" in capsys.readouterr().out

    def test_a_published_config(self, tmp_path, capsys):
        import torch

        from homegrown.config import load_preset
        from homegrown.hub.layout import default_layout
        from homegrown.hub.published import render_config

        config = load_preset("flash-lite")
        table = render_config(config, default_layout(config), torch.bfloat16)
        folder = tmp_path / "published"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(table))
        assert plan(f"--model {folder} {RUN}") == 0
        assert "published on 64 devices" in capsys.readouterr().out

    def test_chips_of_ones_own(self, tmp_path, capsys):
        (tmp_path / "clusters.toml").write_text(
            '[mine]\ntitle = "My cluster"\nlike = "hgx-h100"\nmark = "A"\nsource = "mine"\n'
        )
        assert plan(f"{MODEL} {RUN.replace('hgx-h100', 'mine')} --data {tmp_path}") == 0
        assert "My cluster" in capsys.readouterr().out


class TestMistakes:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("", "--model and --cluster and --devices: needed, as in `homegrown plan --model longcat-2.0"),
            (f"{RUN} --model lama-3-8b", "no model 'lama-3-8b' (did you mean 'llama-3-8b'?)"),
            (f"{MODEL} {RUN} --cluster hgx-h10", "no cluster 'hgx-h10' (did you mean"),
            (f"{MODEL} {RUN} --tokens 35", "--tokens = '35': 35 tokens are no training run; write a unit"),
            (f"{MODEL} {RUN} --tokens 3X", "--tokens = '3X': 'X' is no unit of a number of tokens"),
            (f"{MODEL} {RUN} --stages 8K:1T", "both --tokens and --stages: give one of them"),
            (f"{MODEL} --cluster hgx-h100 --devices 64", "neither --tokens nor --stages: give one of them"),
            (f"{MODEL} {RUN} --devices -5", "devices = -5: must be at least 1"),
            (f"{MODEL} {RUN} --devices 1000000000000", "--devices 1000000000000: must be at most 100,000,000"),
            (f"--model longcat-3 {RUN}", "no model 'longcat-3' (did you mean 'longcat-2.0'?)"),
            (f"{MODEL} {RUN} --tp 7", "tp = 7: must divide the 32 attention heads of llama-3-8b"),
            (f"{MODEL} {RUN} --tp 8 --pp 32", "tp 8 * pp 32 = 256 devices: there are only 64"),
            (f"{MODEL} {RUN} --ep 4", "ep = 4: must divide the 0 routed experts of llama-3-8b"),
            (f"{MODEL} {RUN} --memory 80Gb", "--memory = '80Gb': Gb is a unit of bits"),
            (f"{MODEL} {RUN} --memory 1GB", "llama-3-8b on 64 devices, sequences of 8,192: no layout fits into 1.0 GB"),
            (f"{MODEL} {RUN} --batch 1000", "--batch = '1000': 1000 tokens are no training run"),
            (f"{MODEL} {RUN} --batch-slack 2", "slack = 2: must be a share of the batch"),
            (f"{MODEL} {RUN} --precision fp4", "precision = 'fp4': H100"),
            (f"{MODEL} {RUN} --worlds 0", "worlds = 0: must be at least 1"),
            (f"{RUN} --model none.toml", "none.toml: no such file"),
        ],
    )
    def test_are_one_sentence(self, line, message, capsys):
        assert plan(line) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"homegrown plan: {message}"), error
        assert error.count("\n") == 1


class TestSubcommands:
    @pytest.mark.parametrize("name", SUBCOMMANDS)
    def test_explain_themselves(self, name, capsys):
        assert plan(f"{name} --help") == 0
        assert f"homegrown plan {name}" in capsys.readouterr().out

    def test_help_lists_them(self, capsys):
        assert plan("--help") == 0
        out = capsys.readouterr().out
        for name in SUBCOMMANDS:
            assert f"plan {name}" in out

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("chips", ["h100", "989 TFLOP/s", "80 % bf16"]),
            ("clusters", ["hgx-h800", "160 GB/s"]),
            ("models", ["longcat-2.0", "deepseek-v3", "671B"]),
        ],
    )
    def test_listings(self, name, words, capsys):
        assert plan(name) == 0
        out = capsys.readouterr().out
        assert [word for word in words if word not in out] == []


def test_no_torch_for_a_plan():
    import subprocess
    import sys

    code = (
        "import sys; from homegrown.cli.main import main; "
        f"main(['plan', *'{MODEL} {RUN}'.split()]); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""A whole run by its command: what it leaves behind, and that it is what was asked for."""

from __future__ import annotations

import json
import math
import re
import shutil
import statistics
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import homegrown
from homegrown.cli.main import main
from homegrown.config import TrainConfig, build, load_recipe, read_toml, to_toml
from homegrown.ledger import Ledger, read_metrics
from homegrown.model import Longcat, count
from homegrown.train.callbacks import MetricsLog
from homegrown.train.checkpoint import Key, load_checkpoint, load_newest
from homegrown.train.evaluate import evaluate, scorer_of
from homegrown.train.run import open_run
from homegrown.train.trainer import train

from . import tiny

TRAIN_KEYS = {
    "kind", "step", "tokens", "elapsed_s", "loss", "lm_loss", "bpb", "mtp_loss", "balance_loss", "z_loss",
    "indexer_loss", "grad_norm", "lr_factor", "skipped", "tokens_per_s",
    "tokens_per_s_per_device", "exposed_communication", "slowest_process", "peak_fraction", "real_experts",
    "active_params", "router_health",
}  # fmt: skip
RARE_KEYS = {"expert_load", "router_similarity", "memory_bytes"}


def of_kind(run: Path, kind: str) -> list[dict]:
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == kind]


@pytest.fixture(scope="module")
def config(run_file: Path) -> TrainConfig:
    return build(TrainConfig, read_toml(run_file), str(run_file))


@pytest.fixture(scope="module")
def trained(straight: Path, config: TrainConfig) -> Longcat:
    """The model as the last checkpoint holds it."""
    model = Longcat(config.model)
    held = load_checkpoint(straight / "checkpoints" / "step-00000024").tensors
    state = {
        f"layers.{layer}.mlp.router.e_score_correction_bias": held[f"router/{layer}"]
        for layer in range(config.model.num_layers)
    }
    pieces: dict[str, list[tuple[int, str]]] = {}
    for text in held:
        key = Key.parse(text)
        if key and key.kind == "master":
            pieces.setdefault(key.name, []).append((key.start, text))
    state |= {name: torch.cat([held[text] for _, text in sorted(found)]) for name, found in pieces.items()}
    model.load_state_dict(state)
    return model


def test_the_directory_holds_the_run(straight):
    names = {entry.name for entry in straight.iterdir()}
    assert names == {
        "config.toml", "environment.json", "ledger.jsonl", "metrics.jsonl", "analysis.json", "report.html",
        "checkpoints", "export",
    }  # fmt: skip
    assert sorted(entry.name for entry in (straight / "checkpoints").iterdir()) == ["step-00000020", "step-00000024"]


def test_the_recorded_config_is_what_was_asked(straight, config):
    assert build(TrainConfig, read_toml(straight / "config.toml"), "recorded") == config


def test_the_last_lines_say_the_score_and_where_things_are(run_file, straight, tmp_path, capfd):
    """Running a finished run once more only finishes it once more: the same score, the same exported bytes."""
    shutil.copytree(straight, tmp_path / "run")
    (tmp_path / "run" / "config.toml").unlink()
    assert main(["train", str(run_file), "--run", str(tmp_path / "run")]) == 0
    shown = capfd.readouterr().out
    score = json.loads((straight / "analysis.json").read_text())["heldout"]["bpb"]
    assert shown.splitlines() == [
        f"held-out: {score:.3f} bits per byte",
        f"model:    {tmp_path / 'run' / 'export'}",
        f"report:   {tmp_path / 'run' / 'report.html'}",
    ]
    assert tiny.story(tmp_path / "run", ("train", "sample")) == tiny.story(straight, ("train", "sample"))
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "run" / "export" / name).read_bytes() == (straight / "export" / name).read_bytes()


# The record


def test_the_ledger_tells_the_run(straight, dataset):
    records = Ledger.read(straight / "ledger.jsonl")
    kinds = [record.kind for record in records]
    assert kinds[:2] == ["created", "start"]
    assert kinds[-1] == "end"
    assert kinds.count("step") == 24
    assert [record.payload["step"] for record in records if record.kind == "checkpoint"] == [5, 10, 15, 20, 24]
    start = records[1].payload
    assert start["data_fingerprint"] == dataset.fingerprint
    assert start["config"]["model"]["hidden_size"] == 32
    assert re.fullmatch("[0-9a-f]{64}", start["environment"]["code_digest"])
    environment = json.loads((straight / "environment.json").read_text())
    assert start["environment"] == environment
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == 1
    assert environment["peak_flops"]["float32"] > 0


def test_ledger_and_metrics_agree_to_the_last_bit(straight):
    steps = [record.payload for record in Ledger.read(straight / "ledger.jsonl") if record.kind == "step"]
    lines = of_kind(straight, "train")
    for step, line in zip(steps, lines, strict=True):
        assert float.fromhex(step["loss"]) == line["loss"]
        assert float.fromhex(step["grad_norm"]) == line["grad_norm"]
        assert step["skipped"] is line["skipped"] is False


def test_metrics_are_complete_and_plausible(straight, config, dataset):
    lines = of_kind(straight, "train")
    counted = count(config.model)
    for number, line in enumerate(lines, start=1):
        assert line.keys() - RARE_KEYS == TRAIN_KEYS
        assert (line["step"], line["tokens"]) == (number, 128 * number)
        assert all(math.isfinite(value) for value in line.values() if isinstance(value, float))
        assert line["bpb"] == pytest.approx(line["lm_loss"] / math.log(2) / dataset.bytes_per_token)
        assert 0 < line["real_experts"] <= 3
        assert counted.active(0) < line["active_params"] <= counted.active(3)
        assert 0 < line["peak_fraction"] < 1
        assert line.keys() >= RARE_KEYS
        for layer in line["expert_load"]:
            assert len(layer) == config.model.n_routed_experts + 1
            assert sum(layer) == pytest.approx(1, abs=1e-4)
        zero_share = statistics.mean(layer[-1] for layer in line["expert_load"])
        assert line["real_experts"] == pytest.approx(3 * (1 - zero_share), abs=1e-3)
    assert [line["elapsed_s"] for line in lines] == sorted(line["elapsed_s"] for line in lines)
    assert lines[-1]["lm_loss"] < lines[0]["lm_loss"] - 0.5, "it learns"


def test_scores_and_samples_come_when_they_should(straight):
    scores = [(line["step"], line["final"]) for line in of_kind(straight, "eval")]
    assert scores == [(8, False), (16, False), (24, True)]
    samples = of_kind(straight, "sample")
    assert [line["step"] for line in samples] == [0, 8, 16, 24]
    assert all(line["prompt"] == "def " and isinstance(line["text"], str) for line in samples)
    checkpoints = [line["step"] for line in of_kind(straight, "event") if line["event"] == "checkpoint"]
    assert checkpoints == [5, 10, 15, 20, 24]


# What it is for


def test_the_export_is_the_trained_model(straight, trained, dataset):
    model, tokenizer = homegrown.load(straight / "export")
    tokens = torch.from_numpy(dataset.held.document(0)[:40].astype("int64"))[None]
    assert torch.equal(model(tokens), trained(tokens))
    assert model.config == trained.config
    text = "def value(self):\n    return é"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(text) == dataset.tokenizer().encode(text)


def test_the_analysis_is_that_of_the_trained_model(straight, trained, dataset, config):
    analysis = json.loads((straight / "analysis.json").read_text())
    assert analysis.keys() == {
        "heldout", "baselines", "active_histogram", "token_compute", "throughput", "energy", "parameters", "times",
    }  # fmt: skip
    score = evaluate(scorer_of(trained), dataset.held, 32)
    assert analysis["heldout"] == {
        "bpb": score.bits_per_byte, "bytes": score.text_bytes, "tokens": score.tokens, "documents": score.documents,
    }  # fmt: skip
    assert analysis["heldout"]["documents"] == dataset.held.documents
    assert set(analysis["baselines"]) == {"gzip -9", "xz -9e", "xz -9e primed"}

    histogram, counted = analysis["active_histogram"], count(config.model)
    assert sum(histogram["fraction"]) == pytest.approx(1)
    assert histogram["active_params"] == pytest.approx([counted.active(real / 2) for real in range(7)])
    numbers = sum(tensor.numel() for tensor in trained.state_dict().values())
    assert analysis["parameters"]["total"] == numbers, "the routers' biases are counted, as in the family's tables"
    assert analysis["parameters"]["active_min"] == counted.active(0)
    assert analysis["parameters"]["active_max"] == counted.active(3)

    shown = analysis["token_compute"]["tokens"]
    texts = [text for text in dataset.texts("held") if text.decode().startswith("".join(row[0] for row in shown)[:200])]
    assert texts, "the coloured text is a held-out document"
    assert all(0 <= real <= 3 and active == pytest.approx(counted.active(real), rel=1e-3) for _, real, active in shown)

    speeds = [line["tokens_per_s"] for line in of_kind(straight, "train")]
    assert analysis["throughput"]["tokens_per_s"] == statistics.median(speeds)
    assert analysis["energy"]["joules"] > 0
    assert analysis["energy"]["source"] == "estimate" or analysis["energy"]["source"].startswith("counter:")
    assert {"train", "evaluate", "analysis"} <= analysis["times"].keys()


def test_the_report_stands_alone(straight):
    page = (straight / "report.html").read_text()
    score = json.loads((straight / "analysis.json").read_text())["heldout"]["bpb"]
    assert f"{score:.3f}" in page
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page), "nothing is fetched from elsewhere"


# Less usual runs


def test_a_dropped_step_is_reported_and_leaves_nothing(dataset, tmp_path):
    """An embedding row is NaN during the forward pass of step 3: metrics and ledger say so, the checkpoint is sound."""
    config = tiny.replaced(tiny.train_config(dataset.path, tmp_path / "run", steps=4), log_every=4)
    run = open_run(config)

    def spoil(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor | None:
        if run.step != 2:
            return None
        spoiled = output.clone()
        spoiled[0, 3] = math.nan
        return spoiled

    run.model.embed_tokens.register_forward_hook(spoil)
    assert train(run, [MetricsLog()]).finished
    run.save()
    run.close()
    lines = {line["step"]: line for line in of_kind(config.run, "train")}
    assert sorted(lines) == [3, 4], "a dropped step has its line whatever log_every says"
    assert [lines[step]["skipped"] for step in (3, 4)] == [True, False]
    assert math.isnan(lines[3]["loss"])
    assert math.isfinite(lines[4]["loss"])
    event = next(line for line in of_kind(config.run, "event") if line["event"] == "skipped_step")
    assert event["step"] == 3
    assert math.isnan(event["detail"]["loss"])
    steps = [record.payload for record in Ledger.read(config.run / "ledger.jsonl") if record.kind == "step"]
    assert [step["skipped"] for step in steps] == [False, False, True, False]
    newest, complaints = load_newest(config.run / "checkpoints")
    assert newest is not None
    assert (newest.step, complaints) == (4, [])
    assert newest.tensors["guard/seen"].item() == 3


def test_nothing_held_out_is_nothing_scored(corpus, tmp_path, capfd):
    tiny.write_tokens(corpus, tmp_path / "data", held_fraction=0.0)
    config = tiny.train_config(tmp_path / "data", tmp_path / "run", steps=3)
    config = tiny.replaced(config, eval__every_steps=1, eval__sample_every_steps=0, checkpoint__every_steps=0)
    (tmp_path / "run.toml").write_text(to_toml(config))
    assert main(["train", str(tmp_path / "run.toml")]) == 0
    assert "held-out" not in capfd.readouterr().out
    assert of_kind(config.run, "eval") == []
    assert "heldout" not in json.loads((config.run / "analysis.json").read_text())
    assert (config.run / "report.html").exists()
    assert (config.run / "export" / "model.safetensors").exists()


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="the extra is installed")
def test_tensorboard_without_the_extra_is_one_sentence(dataset, tmp_path, capfd):
    (tmp_path / "run.toml").write_text(to_toml(tiny.train_config(dataset.path, tmp_path / "run", tensorboard=True)))
    assert main(["train", str(tmp_path / "run.toml")]) == 2
    assert 'pip install "homegrown-lm[tensorboard]"' in capfd.readouterr().err


def test_a_tokenizer_larger_than_the_model_is_refused(dataset, tmp_path, capfd):
    config = tiny.train_config(dataset.path, tmp_path / "run", model=tiny.model_config(vocab_size=256))
    (tmp_path / "run.toml").write_text(to_toml(config))
    assert main(["train", str(tmp_path / "run.toml")]) == 2
    assert f"model.vocab_size = 256: the tokenizer of {dataset.path} has {dataset.vocab_size} ids" in " ".join(
        capfd.readouterr().err.split()
    )
    assert not (tmp_path / "run").exists()


# The quickstart


@pytest.fixture
def small_corpus(corpus, monkeypatch):
    """A hundred little files in place of the standard library."""
    monkeypatch.setattr("homegrown.train.quickstart.CORPUS", str(corpus))


@pytest.fixture
def small_recipe(small_corpus, monkeypatch):
    """And the tests' model in place of the quickstart's."""
    recipe = tiny.train_config(Path("unused"), steps=1000)
    monkeypatch.setattr("homegrown.train.quickstart.load_recipe", lambda name: recipe)


@pytest.mark.slow
def test_quickstart_tells_the_whole_story(small_corpus, tmp_path, capfd):
    out = tmp_path / "out"
    assert main(["quickstart", "--steps", "4", "--out", str(out), "--device", "cpu"]) == 0
    shown = capfd.readouterr().out
    assert re.search(r"^held-out: \d\.\d{3} bits per byte$", shown, re.MULTILINE)
    assert str(out / "export") in shown
    assert str(out / "report.html") in shown
    config = build(TrainConfig, read_toml(out / "config.toml"), "recorded")
    recipe = load_recipe("quickstart")
    assert (config.model, config.optim, config.loss, config.steps) == (recipe.model, recipe.optim, recipe.loss, 4)
    assert of_kind(out, "eval")[-1]["final"]
    model, tokenizer = homegrown.load(out / "export")
    assert model.config == recipe.model
    assert tokenizer is not None


def test_a_second_quickstart_finishes_the_same_run_or_starts_anew(small_recipe, tmp_path, capfd):
    out = tmp_path / "out"
    (out / ".data.k3x.tmp").mkdir(parents=True)  # of a quickstart that was killed while it wrote its data
    command = ["quickstart", "--out", str(out), "--device", "cpu"]
    assert main([*command, "--steps", "4"]) == 0
    assert not list(out.glob(".*"))
    first, story = capfd.readouterr().out, tiny.story(out, ("train",))
    assert main(command) == 0
    assert capfd.readouterr().out == first
    assert tiny.story(out, ("train",)) == story
    opened = [record.kind for record in Ledger.read(out / "ledger.jsonl") if record.kind in ("start", "resume")]
    assert opened == ["start", "resume"]

    assert main([*command, "--again", "anew", "--steps", "2", "--seed", "1"]) == 0
    again = tiny.story(out, ("train",))
    assert len(again) == 2
    assert again[0]["loss"] != story[0]["loss"]


def test_quickstart_plans_its_steps_from_the_time_given(small_recipe, tmp_path, monkeypatch, capfd):
    """Three seconds hold some steps of 50 milliseconds, and the number is said and recorded."""
    monkeypatch.setattr("homegrown.train.quickstart.CLOSING_SECONDS", 0.0)
    out = tmp_path / "out"
    assert main(["quickstart", "--minutes", "0.05", "--out", str(out), "--device", "cpu"]) == 0
    steps = build(TrainConfig, read_toml(out / "config.toml"), "recorded").steps
    assert 1 <= steps < 300
    assert f"--steps{steps})" in "".join(capfd.readouterr().err.split())
    assert len(tiny.story(out, ("train",))) == steps


def test_quickstart_touches_no_strange_directory(small_recipe, tmp_path, capfd):
    (tmp_path / "precious.txt").write_text("mine")
    for again in ("resume", "anew"):
        assert main(["quickstart", "--steps", "1", "--out", str(tmp_path), "--again", again]) == 2
        assert "does not hold a run" in capfd.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious.txt"]

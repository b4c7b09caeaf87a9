from dataclasses import dataclass
from pathlib import Path

import pytest
import tyro

from homegrown.cli.common import console, load_train_config, parse
from homegrown.config import ConfigError, TrainConfig, UsageError, load_preset, to_toml


@pytest.fixture(autouse=True)
def wide_plain_terminal(monkeypatch):
    """Help pages break and colour their lines by the terminal they find."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.fixture
def toml(tmp_path):
    """Writes a config file and returns its path as an argument."""

    def write(text: str) -> str:
        path = tmp_path / "run.toml"
        path.write_text(text)
        return str(path)

    return write


@dataclass(frozen=True, kw_only=True)
class Tea:
    """Make tea.

    Black or green.
    """

    cups: tyro.conf.Positional[int]
    """How many."""
    degrees: float = 95.0
    """Heat of the water."""


class TestParse:
    def test_flags_and_positions(self):
        assert parse(Tea, ["3", "--degrees", "80"], "brew") == Tea(cups=3, degrees=80.0)

    def test_default_instance(self):
        assert parse(Tea, ["--degrees", "70"], "brew", default=Tea(cups=2)) == Tea(cups=2, degrees=70.0)

    def test_help_comes_from_docstrings(self, capsys):
        with pytest.raises(SystemExit) as end:
            parse(Tea, ["--help"], "brew")
        out = capsys.readouterr().out
        assert end.value.code == 0
        for text in (
            "usage: homegrown brew",
            "Make tea.",
            "Black or green.",
            "How many.",
            "Heat of the water.",
            "95.0",
        ):
            assert text in out

    def test_stated_opening_of_the_help(self, capsys):
        with pytest.raises(SystemExit):
            parse(Tea, ["--help"], "brew", about="Another opening.")
        out = capsys.readouterr().out
        assert "Another opening." in out
        assert "Make tea." not in out

    def test_mistake_exits_with_2_and_a_hint(self, capsys):
        with pytest.raises(SystemExit) as end:
            parse(Tea, ["3", "--degree", "80"], "brew")
        assert end.value.code == 2
        assert "--degrees" in capsys.readouterr().err


class TestTrainConfig:
    def test_nothing_given_is_the_defaults(self):
        assert load_train_config([]) == TrainConfig()

    def test_file_then_flags(self, toml):
        file = toml('steps = 7\nrun = "runs/mine"\n[model]\nmoe_topk = 5\n[data]\nseq_len = 64\n')
        config = load_train_config([file, "--steps", "10", "--model.moe-topk", "4"])
        assert config.steps == 10
        assert config.model.moe_topk == 4
        assert config.data.seq_len == 64
        assert config.run == Path("runs/mine")
        assert config.data.global_batch == TrainConfig().data.global_batch

    def test_flags_of_every_type(self):
        argv = ["--optim.muon-lr", "0.5", "--no-deterministic", "--precision", "float32", "--data.path", "shards"]
        argv += ["--eval.sample-prompts", "def ", "class ", "--model.rope.type", "yarn", "--model.ngram.splits=2"]
        config = load_train_config(argv)
        assert config.optim.muon_lr == 0.5
        assert not config.deterministic
        assert config.precision == "float32"
        assert config.data.path == Path("shards")
        assert config.eval.sample_prompts == ("def ", "class ")
        assert config.model.rope.type == "yarn"
        assert config.model.ngram.splits == 2

    def test_underscores_as_in_the_file_are_understood(self):
        assert load_train_config(["--model.moe_topk", "4"]).model.moe_topk == 4

    def test_resolved_config_reads_back_as_itself(self, toml):
        config = load_train_config(["--model.preset", "longcat-2.0", "--steps", "3", "--growth.source", "old model"])
        assert load_train_config([toml(to_toml(config))]) == config


class TestPreset:
    def test_from_the_file_with_its_other_keys_on_top(self, toml):
        config = load_train_config(
            [toml('[model]\npreset = "flash-lite"\nnum_layers = 2\n[model.rope]\nfactor = 4.0\n')]
        )
        preset = load_preset("flash-lite")
        assert config.model.num_layers == 2
        assert config.model.hidden_size == preset.hidden_size
        assert config.model.rope.factor == 4.0
        assert config.model.rope.theta == preset.rope.theta, "a table is laid over the preset's, not put in its place"

    @pytest.mark.parametrize("flag", [["--model.preset", "flash"], ["--model.preset=flash"]])
    def test_from_a_flag_alone(self, flag):
        assert load_train_config(flag).model == load_preset("flash")

    def test_flag_replaces_the_files_preset_and_keeps_its_keys(self, toml):
        file = toml('[model]\npreset = "flash"\nnum_layers = 3\n')
        config = load_train_config([file, "--model.preset", "flash-lite", "--model.moe-topk", "2"])
        assert config.model.hidden_size == load_preset("flash-lite").hidden_size
        assert config.model.num_layers == 3
        assert config.model.moe_topk == 2

    def test_unknown_in_the_file(self, toml):
        file = toml('[model]\npreset = "flash-light"\n')
        with pytest.raises(
            ConfigError, match=r"run\.toml: no model preset 'flash-light' \(did you mean 'flash-lite'\?\)"
        ):
            load_train_config([file])

    def test_unknown_as_a_flag(self):
        with pytest.raises(ConfigError, match=r"--model\.preset: no model preset 'x'; there are: flash, "):
            load_train_config(["--model.preset", "x"])

    def test_not_a_name(self, toml):
        with pytest.raises(ConfigError, match=r"run\.toml: 'model\.preset' must be the name of a preset, not 3"):
            load_train_config([toml("[model]\npreset = 3\n")])


class TestRefused:
    def test_unknown_key_in_the_file(self, toml):
        with pytest.raises(ConfigError, match=r"run\.toml: unknown key 'data\.seq_lenn' \(did you mean 'seq_len'\?\)"):
            load_train_config([toml("[data]\nseq_lenn = 3\n")])

    def test_unknown_key_beside_a_preset(self, toml):
        with pytest.raises(ConfigError, match=r"unknown key 'model\.moe_topkk' \(did you mean 'moe_topk'\?\)"):
            load_train_config([toml('[model]\npreset = "flash"\nmoe_topkk = 3\n')])

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('steps = "ten"', "Expected `int`, got `str`"),
            ("run = 3", "Expected `Path`, got `int`"),
            ("model = 3", "'model' must be a table, not 3"),
            ("steps = 0", "steps = 0: must be at least 1"),
            ("steps = ", "not valid TOML"),
        ],
    )
    def test_impossible_values_in_the_file(self, toml, text, message):
        with pytest.raises(ConfigError) as caught:
            load_train_config([toml(text)])
        assert "run.toml" in str(caught.value)
        assert message in str(caught.value)

    def test_missing_file(self, tmp_path):
        with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
            load_train_config([str(tmp_path / "none.toml")])

    @pytest.mark.parametrize("order", [["--steps", "3", "FILE"], ["FILE", "FILE"]])
    def test_file_that_is_not_first_or_not_alone(self, toml, order):
        file = toml("steps = 2")
        with pytest.raises(UsageError, match=r"it comes first, as in `homegrown train CONFIG\.toml --steps 10`"):
            load_train_config([file if argument == "FILE" else argument for argument in order])

    @pytest.mark.parametrize(
        ("argv", "hints"),
        [
            (["--model.moe-topkk", "4"], ["--model.moe-topkk", "Perhaps you meant", "--model.moe-topk INT"]),
            (["--steps", "ten"], ["--steps", "ten"]),
            (["--precision", "float8"], ["--precision", "float32", "bfloat16"]),
            (["--model.moe-topk", "9999"], ["model.moe_topk = 9999", "there are only 768 experts"]),
            (["--model.preset"], ["--model.preset"]),
        ],
    )
    def test_flags(self, capsys, argv, hints):
        with pytest.raises(SystemExit) as end:
            load_train_config(argv)
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert all(hint in error for hint in hints)


class TestHelp:
    def test_explains_flags_and_shows_what_the_file_says(self, toml, capsys):
        with pytest.raises(SystemExit) as end:
            load_train_config([toml('steps = 4321\n[model]\npreset = "flash-lite"\n'), "--help"])
        out = capsys.readouterr().out
        assert end.value.code == 0
        assert "usage: homegrown train [-h] [OPTIONS] [CONFIG.toml]" in out
        assert "Optimizer steps. (default: 4321)" in out
        assert f"(default: {load_preset('flash-lite').hidden_size})" in out
        assert "flash-lite-sparse" in out, "the presets are listed"
        assert "--train." not in out, "flags are named as the file's keys"

    def test_another_command_with_its_own_opening(self, capsys):
        with pytest.raises(SystemExit):
            load_train_config(["--help"], "quickstart", about="The whole story.")
        out = capsys.readouterr().out
        assert "usage: homegrown quickstart" in out
        assert "The whole story." in out


def test_progress_leaves_stdout_to_results(capfd):
    console.print("working")
    captured = capfd.readouterr()
    assert captured.out == ""

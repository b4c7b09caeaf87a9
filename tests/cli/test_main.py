import ast
import importlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import homegrown.cli
from homegrown import __version__
from homegrown.cli.main import COMMANDS, Command, main
from homegrown.config import ConfigError, UserError

TABLE = [command for group in COMMANDS.values() for command in group]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A table of two commands whose modules exist for this test only."""
    (tmp_path / "made_up_brew.py").write_text(
        textwrap.dedent("""
            import sys
            from homegrown.config import ConfigError, UserError

            def run(argv):
                print("brewing", *argv)
                if argv == ["dry"]:
                    raise UserError("kettle.toml: there is no water; fill at least 1 litre")
                if argv == ["wrong"]:
                    raise ConfigError("kettle.litres = -1: must be positive")
                if argv == ["broken"]:
                    raise ZeroDivisionError("a bug")
                if argv == ["unreadable"]:
                    open("/no/such/kettle")
                if argv == ["socket"]:
                    raise ConnectionResetError("peer is gone")
                if argv == ["stopped"]:
                    raise KeyboardInterrupt
                if argv and argv[0] == "exit":
                    sys.exit(eval(argv[1]))
                return 7
        """)
    )
    (tmp_path / "made_up_pour.py").write_text("raise RuntimeError('imported without need')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("HOMEGROWN_DEBUG", raising=False)
    yield {
        "Make": [Command("brew", "made_up_brew", "Make tea")],
        "Use": [Command("pour", "made_up_pour", "Fill a cup")],
    }
    sys.modules.pop("made_up_brew", None)


class TestTable:
    """What `--help` says without importing a command, against the commands themselves."""

    @pytest.mark.parametrize("command", TABLE, ids=lambda command: command.name)
    def test_entry_agrees_with_its_module(self, command):
        module = importlib.import_module(command.module)
        assert command.summary == module.SUMMARY
        assert callable(module.run)
        assert "\n" not in command.summary

    def test_every_command_module_is_listed(self):
        folder = Path(homegrown.cli.__file__).parent
        commands = {f"homegrown.cli.{path.stem}" for path in folder.glob("*.py") if defines_summary(path)}
        assert commands == {command.module for command in TABLE}

    def test_names_are_unique(self):
        names = [command.name for command in TABLE]
        assert len(names) == len(set(names))

    @pytest.mark.parametrize("command", TABLE, ids=lambda command: command.name)
    def test_every_command_explains_itself(self, command, capsys):
        assert main([command.name, "--help"]) == 0
        assert f"homegrown {command.name}" in capsys.readouterr().out


def defines_summary(path: Path) -> bool:
    statements = ast.parse(path.read_text()).body
    targets = [t for s in statements if isinstance(s, ast.Assign) for t in s.targets]
    targets += [s.target for s in statements if isinstance(s, ast.AnnAssign)]
    return any(isinstance(target, ast.Name) and target.id == "SUMMARY" for target in targets)


class TestHelp:
    @pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
    def test_lists_commands_under_their_headings(self, commands, capsys, argv):
        assert main(argv, commands) == 0
        out = capsys.readouterr().out
        assert "Make\n  brew  Make tea\n\nUse\n  pour  Fill a cup\n" in out
        assert "made_up_pour" not in sys.modules

    def test_help_of_a_command(self, commands, capsys):
        assert main(["help", "brew"], commands) == 7
        assert capsys.readouterr().out == "brewing --help\n"

    @pytest.mark.parametrize("argv", [["-V"], ["--version"]])
    def test_version(self, capsys, argv):
        assert main(argv) == 0
        assert capsys.readouterr().out == f"homegrown {__version__}\n"


class TestDispatch:
    def test_arguments_go_in_and_the_status_comes_out(self, commands, capsys):
        assert main(["brew", "--hot", "2"], commands) == 7
        assert capsys.readouterr().out == "brewing --hot 2\n"

    def test_unknown_command_with_a_near_one(self, commands, capsys):
        assert main(["brwe"], commands) == 2
        assert capsys.readouterr().err == "homegrown brwe: no such command; did you mean 'brew'?\n"

    def test_unknown_command_with_none_near(self, commands, capsys):
        assert main(["xyz"], commands) == 2
        assert capsys.readouterr().err == "homegrown xyz: no such command; `homegrown --help` lists the commands\n"

    def test_unknown_option(self, commands, capsys):
        assert main(["--wat"], commands) == 2
        assert "no such option" in capsys.readouterr().err


class TestEndings:
    def test_user_error_is_one_sentence(self, commands, capsys):
        assert main(["brew", "dry"], commands) == 1
        captured = capsys.readouterr()
        assert captured.err == "homegrown brew: kettle.toml: there is no water; fill at least 1 litre\n"

    def test_impossible_request_exits_with_2(self, commands, capsys):
        assert main(["brew", "wrong"], commands) == 2
        assert capsys.readouterr().err == "homegrown brew: kettle.litres = -1: must be positive\n"

    def test_debug_shows_the_traceback(self, commands, monkeypatch):
        monkeypatch.setenv("HOMEGROWN_DEBUG", "1")
        with pytest.raises(UserError, match="no water"):
            main(["brew", "dry"], commands)

    def test_file_system_error_names_the_file(self, commands, capsys):
        assert main(["brew", "unreadable"], commands) == 1
        assert capsys.readouterr().err == "homegrown brew: /no/such/kettle: No such file or directory\n"

    def test_system_error_without_a_file_keeps_its_traceback(self, commands):
        with pytest.raises(ConnectionResetError):
            main(["brew", "socket"], commands)

    def test_a_bug_is_not_dressed_up(self, commands):
        with pytest.raises(ZeroDivisionError):
            main(["brew", "broken"], commands)

    def test_interrupt(self, commands, capsys):
        assert main(["brew", "stopped"], commands) == 130
        assert capsys.readouterr().err == "homegrown brew: interrupted\n"

    @pytest.mark.parametrize(("code", "status"), [("0", 0), ("2", 2), ("None", 0)])
    def test_parsers_that_exit(self, commands, code, status):
        assert main(["brew", "exit", code], commands) == status

    def test_exit_with_a_message_shows_it(self, commands, capsys):
        assert main(["brew", "exit", "'no tea'"], commands) == 1
        assert "no tea" in capsys.readouterr().err

    @pytest.mark.parametrize(("no_color", "painted"), [(None, True), ("1", False)])
    def test_errors_are_red_on_a_terminal(self, commands, capsys, monkeypatch, no_color, painted):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.delenv("NO_COLOR", raising=False)
        if no_color:
            monkeypatch.setenv("NO_COLOR", no_color)
        main(["xyz"], commands)
        assert capsys.readouterr().err.startswith("\033[31m") is painted

    def test_closed_pipe_is_quiet(self):
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            command = [sys.executable, "-m", "homegrown", "--help"]
            done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 141
        assert done.stderr == b""


def test_error_classes_carry_their_exit_status():
    assert issubclass(ConfigError, UserError)
    assert (UserError.exit_code, ConfigError.exit_code) == (1, 2)
    assert issubclass(UserError, ValueError)

"""`homegrown generate` and `homegrown chat`, on a directory as users have it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.generate.talker import talker
from tests.model.small import small

import homegrown
from homegrown.cli import chat
from homegrown.cli.main import main
from homegrown.generate import GenerateError, Generation, Piece, SamplingConfig, complete
from homegrown.tokenizer import Tokenizer, train_tokenizer

GREEDY = ["--temperature", "0", "--max-tokens", "12", "--device", "cpu", "--threads", "1"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Commands set the number of threads of the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer(["def main(self):\n    return self.name\n"] * 30, 300)
    config = small(vocab_size=tokenizer.vocab_size, num_layers=1, max_position_embeddings=400)
    path = tmp_path_factory.mktemp("run") / "export"
    homegrown.save(talker(config, seed=3, noise=4.0), tokenizer, path)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command with a text on stdin: exit status, stdout, stderr."""

    def command(*argv: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capsys.readouterr()
        status = main(list(argv))
        shown = capsys.readouterr()
        return status, shown.out, " ".join(shown.err.split())

    return command


def expected(directory: Path, prompt: str, **changes: object) -> str:
    model, tokenizer = homegrown.load(directory)
    return complete(model, tokenizer, prompt, SamplingConfig(**{"temperature": 0, "max_tokens": 12, **changes}))


class TestGenerate:
    def test_writes_the_continuation_alone_and_the_speed_apart(self, run: Run, directory: Path) -> None:
        status, out, err = run("generate", str(directory), "--prompt", "def ", *GREEDY)
        text = expected(directory, "def ")
        assert (status, out) == (0, text if text.endswith("\n") else text + "\n")
        assert err.startswith("decoded rows: ")
        assert " 12 tokens; " in err
        assert " tokens/s; prompt of " in err
        assert err.endswith("ended by length")

    def test_reads_the_prompt_from_stdin_as_it_is(self, run: Run, directory: Path) -> None:
        given = run("generate", str(directory), "--prompt", "def main\n", *GREEDY)
        assert run("generate", str(directory), *GREEDY, stdin="def main\n")[1] == given[1]

    def test_speculation_writes_the_same_and_says_how_it_went(self, run: Run, directory: Path) -> None:
        plain = run("generate", str(directory), "--prompt", "def ", *GREEDY)
        status, out, err = run("generate", str(directory), "--prompt", "def ", *GREEDY, "--speculate")
        assert (status, out) == (0, plain[1])
        assert " drafts accepted, " in err

    def test_sampling_flags_reach_the_sampler(self, run: Run, directory: Path) -> None:
        flags = ["--temperature", "1.5", "--top-p", "0.9", "--top-k", "20", "--min-p", "0.01", "--seed", "7"]
        out = run("generate", str(directory), "--prompt", "def ", *GREEDY, *flags)[1]
        settings = {"temperature": 1.5, "top_p": 0.9, "top_k": 20, "min_p": 0.01, "seed": 7}
        assert out.removesuffix("\n") == expected(directory, "def ", **settings).removesuffix("\n")

    def test_stops(self, run: Run, directory: Path) -> None:
        whole = expected(directory, "def ")
        flags = ["--stop", "never there", "--stop", whole[2:5]]
        _, out, err = run("generate", str(directory), "--prompt", "def ", *GREEDY, *flags)
        assert out.removesuffix("\n") == whole[: whole.index(whole[2:5])].removesuffix("\n")
        assert err.endswith("ended by stop")

    def test_dtype(self, run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        real = homegrown.load
        monkeypatch.setattr("homegrown.hub.load", lambda *args: seen.append(args[1:]) or real(*args))
        assert run("generate", str(directory), "--prompt", "a", *GREEDY, "--dtype", "bfloat16")[0] == 0
        assert seen == [(torch.device("cpu"), torch.bfloat16)]

    def test_shows_the_prompt_in_a_terminal(self, run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.delenv("NO_COLOR", raising=False)
        out = run("generate", str(directory), "--prompt", "def ", *GREEDY)[1]
        assert out.startswith("\033[2mdef \033[0m")

    def test_an_interrupted_text_ends_its_line_and_keeps_its_figures(
        self, run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interrupt_after(3, monkeypatch)
        status, out, err = run("generate", str(directory), "--prompt", "def ", *GREEDY)
        assert status == 130
        assert out.endswith("\n")
        assert " 3 tokens; " in err
        assert "ended by interrupted homegrown generate: interrupted" in err

    @pytest.mark.parametrize(
        ("flags", "status", "message"),
        [
            (["--speculate"], 2, "--speculate is for greedy decoding: add --temperature 0"),
            (["--top-p", "2"], 2, "top_p = 2.0: must lie in [0, 1]"),
            (["--device", "abacus"], 1, "device 'abacus'"),
        ],
    )
    def test_what_cannot_be_done_is_said(
        self, run: Run, directory: Path, flags: list[str], status: int, message: str
    ) -> None:
        found, out, err = run("generate", str(directory), "--prompt", "a", *flags)
        assert (found, out) == (status, "")
        assert f"homegrown generate: {message}" in err

    def test_a_directory_without_tokenizer(self, run: Run, directory: Path, tmp_path: Path) -> None:
        homegrown.save(homegrown.load(directory)[0], None, tmp_path / "mute")
        status, _, err = run("generate", str(tmp_path / "mute"), "--prompt", "a", *GREEDY)
        assert status == 1
        assert "mute: there is no tokenizer.json; put the one the model was trained with there" in err


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C once, while the token after the first `count` is made."""
    real = Generation.__next__
    pending = [None]

    def next_or_interrupt(generation: Generation) -> Piece:
        if len(generation.tokens) == count and pending:
            pending.pop()
            raise KeyboardInterrupt
        return real(generation)

    monkeypatch.setattr(Generation, "__next__", next_or_interrupt)


class TestChat:
    """What the model is asked, seen through the prompts that reach it."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
        """The conversation as the model reads it, turn by turn."""
        seen: list[str] = []
        real = Tokenizer.render_chat

        def render(tokenizer: Tokenizer, *args: object, **switches: object) -> str:
            seen.append(real(tokenizer, *args, **switches))
            return seen[-1]

        monkeypatch.setattr(Tokenizer, "render_chat", render)
        return seen

    def test_turns_become_history(self, run: Run, directory: Path, asked: list[str]) -> None:
        status, out, err = run("chat", str(directory), *GREEDY, stdin="hello\nand now?\n")
        assert status == 0
        assert err.count("tokens/s") == 2
        first, second = asked
        assert first.startswith("<longcat_user>hello")
        opening = first.removesuffix("<longcat_assistant><longcat_think>\n\n</longcat_think>\n")
        assert second.startswith(opening), "the first turn is repeated as it was"
        assert "<longcat_user>and now?" in second
        answer = second.removeprefix(opening).split("</longcat_think>\n")[1].split("</longcat_s>")[0]
        assert answer.strip("\n") in out

    def test_reset_forgets_and_exit_leaves(self, run: Run, directory: Path, asked: list[str]) -> None:
        run("chat", str(directory), *GREEDY, stdin="one\n/reset\n\ntwo\n/exit\nthree\n")
        assert ["one" in text for text in asked] == [True, False]
        assert "two" in asked[1]

    def test_system_and_thinking(self, run: Run, directory: Path, asked: list[str]) -> None:
        run("chat", str(directory), *GREEDY, "--system", "be brief", "--think", stdin="one\ntwo\n")
        assert all(text.startswith("<longcat_system>be brief<longcat_user>one /think_on") for text in asked)
        assert all(text.endswith("<longcat_assistant><longcat_think>\n") for text in asked)

    def test_ctrl_c_stops_an_answer_and_keeps_it(
        self, run: Run, directory: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interrupt_after(4, monkeypatch)
        status, _, err = run("chat", str(directory), *GREEDY, stdin="one\ntwo\n")
        assert status == 0
        assert "4 tokens; " in err
        assert "ended by interrupted" in err
        assert "<longcat_user>one" in asked[1]

    def test_speculation(self, run: Run, directory: Path) -> None:
        plain = run("chat", str(directory), *GREEDY, stdin="one\ntwo\n")
        status, out, err = run("chat", str(directory), *GREEDY, "--speculate", stdin="one\ntwo\n")
        assert (status, out) == (0, plain[1])
        assert err.count("drafts accepted") == 2

    def test_commands_are_listed(self, run: Run, directory: Path) -> None:
        err = run("chat", str(directory), *GREEDY, stdin="/help\n/what\n")[2]
        assert err.count("/reset begin anew") == 2
        assert "no such command: /what" in err

    def test_a_turn_that_does_not_fit_is_forgotten(self, run: Run, directory: Path, asked: list[str]) -> None:
        status, _, err = run("chat", str(directory), *GREEDY, stdin=f"{'x ' * 400}\nshort\n")
        assert status == 0
        assert "the model's longest context is 400, one place of it for an answer; /reset begins anew" in err
        assert "x x" not in asked[1]

    def test_says_when_a_model_was_only_pretrained(self, run: Run, directory: Path) -> None:
        quiet = run("chat", str(directory), *GREEDY, stdin="")[2]
        assert "note:" not in quiet
        (directory.parent / "ledger.jsonl").touch()
        try:
            told = run("chat", str(directory), *GREEDY, stdin="")[2]
        finally:
            (directory.parent / "ledger.jsonl").unlink()
        assert "never taught to hold a conversation" in told

    def test_says_when_there_is_no_template(self, directory: Path) -> None:
        tokenizer = homegrown.load(directory)[1]
        assert tokenizer is not None
        tokenizer.chat_template = None
        assert "no chat template, so this is probably a base model" in chat.untaught(directory, tokenizer)


def test_errors_of_generation_are_mistakes_in_the_request() -> None:
    assert GenerateError.exit_code == 2

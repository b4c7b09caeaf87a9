"""`homegrown chat`: a conversation with a model in the terminal."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from homegrown.cli.common import console, parse
from homegrown.cli.writing import Stream, Writing, load_writer, sampling
from homegrown.config import UserError

if TYPE_CHECKING:
    from homegrown.model import Longcat
    from homegrown.tokenizer import Tokenizer

SUMMARY = "talk with a model in the terminal"

HELP = """/reset   begin anew
/exit    leave (so does Ctrl-D)
Ctrl-C   stop an answer"""

THINKING_ENDS = "</longcat_think>"
ROLES = ("<longcat_system>", "<longcat_user>", "<longcat_assistant>", "<longcat_observation>")
"""Tokens that open a turn: a model that writes one has said what it had to say."""


@dataclass(frozen=True, kw_only=True)
class Chat(Writing):
    """Talk with a model in the terminal; /help lists what else can be typed.

    Turns are put in the words of the model's own chat template. A model that was only pretrained has learned none and
    will continue your words rather than answer them; the command says when it can tell.
    """

    system: str = ""
    """Instructions that open the conversation."""
    think: bool = False
    """Let the model reason before it answers, if it has learned to."""


def run(argv: list[str]) -> int:
    """Run the command; the exit status."""
    args = parse(Chat, argv, "chat")
    model, tokenizer = load_writer(args)
    conversation = Conversation(args, model, tokenizer)
    note = untaught(args.model, tokenizer)
    if note:
        _say(f"note: {note}", style="yellow")
    if sys.stdin.isatty():
        _say("/help lists what can be typed besides your words", style="dim")
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing and history for input())
    while (words := _read()) is not None:
        if words == "/exit":
            break
        _obey(words, conversation)
    return 0


def untaught(directory: Path, tokenizer: Tokenizer) -> str:
    """Why to expect continuations rather than answers from this model; empty if nothing speaks for it."""
    if (directory.resolve().parent / "ledger.jsonl").exists():
        return (
            f"{directory} is what a pretraining run left: a model of plain text that was never taught to hold a "
            "conversation. It will continue your words in the manner of its training text."
        )
    if tokenizer.chat_template is None:
        return (
            f"{directory} has no chat template, so this is probably a base model; it is asked in the family's template "
            "and may continue your words rather than answer them."
        )
    return ""


class Conversation:
    """The turns so far, and the model that takes every second one."""

    def __init__(self, args: Chat, model: Longcat, tokenizer: Tokenizer) -> None:
        self._args, self._model, self._tokenizer = args, model, tokenizer
        self._turns: list[dict[str, str]] = []
        self._asked = 0

    def reset(self) -> None:
        """Forget all turns."""
        self._turns.clear()

    def ask(self, words: str) -> None:
        """Put a turn to the model and write its answer. Ctrl-C stops the answer, and what there is of it counts.

        Raises:
            UserError: the model cannot take the turn, which is then forgotten.
        """
        from homegrown.generate import generate

        opening = [{"role": "system", "content": self._args.system}] if self._args.system else []
        turns = [*self._turns, {"role": "user", "content": words}]
        text = self._tokenizer.render_chat([*opening, *turns], enable_thinking=self._args.think)
        roles = tuple(token for role in ROLES if (token := self._tokenizer.token_id(role)) is not None)
        # Every answer has a seed of its own, or the same question would get the same answer for ever.
        settings = sampling(self._args, stop_ids=roles, seed=self._args.seed + self._asked)
        prompt = self._tokenizer.encode(text)
        stream = Stream(generate(self._model, self._tokenizer, prompt, settings, speculative=self._args.speculate))
        with contextlib.suppress(KeyboardInterrupt):
            stream.run()
        _say(stream.summary(), style="dim")
        reasoning, _, answer = stream.text.rpartition(THINKING_ENDS)
        reply = {"role": "assistant", "content": answer.strip("\n"), "reasoning_content": reasoning}
        self._turns = [*turns, reply]
        self._asked += 1


def _say(text: str, style: str = "") -> None:
    """The command's own words, apart from the model's: on stderr, as they are."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _read() -> str | None:
    """The next line that says something; None at the end of input."""
    while True:
        try:
            words = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            if sys.stdin.isatty():
                print()
            return None
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            print()  # as in a shell: the line is dropped
            continue
        if words:
            return words


def _obey(words: str, conversation: Conversation) -> None:
    if words == "/reset":
        conversation.reset()
    elif words.startswith("/"):
        _say(HELP if words == "/help" else f"no such command: {words}\n{HELP}")
    else:
        try:
            conversation.ask(words)
        except UserError as error:
            _say(f"{error}; /reset begins anew", style="red")

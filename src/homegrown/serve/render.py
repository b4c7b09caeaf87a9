"""Conversations and texts to prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from homegrown.serve.conversation import Completion, Conversation, Tool
from homegrown.serve.errors import ApiError
from homegrown.serve.parse.tags import THINK
from homegrown.serve.segments import Disguise, Segments
from homegrown.tokenizer import Tokenizer, TokenizerError
from homegrown.tokenizer.chat import with_decoded_arguments

TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
RESERVED = frozenset({"messages", "tools", "documents", "template", "self", "add_generation_prompt", *TOKENS})
"""Template variables that are not the client's to set."""
CHARACTERS = 16
"""A prompt may have so many a token of context. Text has 3 to 5; to encode one takes some 100 bytes of memory."""


@dataclass(frozen=True)
class Prompt:
    """What the model is to continue.

    Attributes:
        tokens: ids.
        thinking: it ends inside a thinking block.
    """

    tokens: list[int]
    thinking: bool = False


class Renderer:
    """Makes prompts.

    Args:
        tokenizer: renders and encodes.
        context: the longest prompt in tokens; texts that cannot fit are refused before they are encoded.
        vocab_size: token ids are below this.
        thinking: whether the model reasons when the client does not say.
    """

    def __init__(self, tokenizer: Tokenizer, context: int, vocab_size: int, thinking: bool) -> None:
        self._tokenizer, self._vocab_size, self._thinking = tokenizer, vocab_size, thinking
        self._segments = Segments(tokenizer)
        self.max_characters = context * CHARACTERS
        """No longer text is encoded."""

    def chat(self, conversation: Conversation) -> Prompt:
        """A conversation up to where the assistant is to speak.

        Raises:
            ApiError: `invalid`: the template refuses it, or it holds what is no text; `context_length`: it is far too
                long.
        """
        disguise = Disguise(list(self._tokenizer.added_tokens))
        try:
            text = self._render(conversation, disguise)
            self._check_length(text, "messages")
            tokens = self._segments.encode(text, disguise)
        except TokenizerError as error:
            raise ApiError("invalid", f"The messages cannot be rendered: {error}.", param="messages") from None
        except RecursionError:
            raise ApiError("invalid", "The messages or tools are nested too deeply.", param="messages") from None
        return Prompt(tokens, thinking=text.rstrip().endswith(THINK))

    def text(self, text: str, bos: bool = True) -> list[int]:
        """A text as it is, special tokens and all.

        Args:
            text: any.
            bos: put the beginning-of-sequence token before it.

        Raises:
            ApiError: `invalid`: it is not Unicode; `context_length`: it is far too long.
        """
        self._check_length(text, "prompt")
        try:
            return [self._tokenizer.bos_id] * bos + self._tokenizer.encode(text)
        except TokenizerError as error:
            raise ApiError("invalid", f"The prompt cannot be encoded: {error}.", param="prompt") from None

    def completion(self, completion: Completion) -> Prompt:
        """The prompt of a plain completion.

        Raises:
            ApiError: `invalid`, as for `text`, and for ids that the model does not have.
        """
        prompt = completion.prompt
        if isinstance(prompt, str):
            return Prompt(self.text(prompt))
        if not prompt:
            raise ApiError("invalid", "The prompt has no tokens; give at least one.", param="prompt")
        self.check_ids(prompt, "prompt")
        return Prompt(list(prompt))

    def check_ids(self, tokens: list[int], field: str) -> None:
        """Refuse ids that the model does not have.

        Raises:
            ApiError: `invalid`.
        """
        foreign = next((token for token in tokens if not 0 <= token < self._vocab_size), None)
        if foreign is not None:
            ids = f"0 to {self._vocab_size - 1}"
            raise ApiError("invalid", f"{field} holds token id {foreign}; the model's ids are {ids}.", param=field)

    def _render(self, conversation: Conversation, disguise: Disguise) -> str:
        # Decoded first: an escape in JSON text might otherwise bring forth what is to be hidden.
        messages = [with_decoded_arguments(message, index) for index, message in enumerate(conversation.messages)]
        return self._tokenizer.render_chat(
            disguise.hide(messages),
            tools=disguise.hide([_declaration(tool) for tool in conversation.tools]) or None,
            **disguise.hide(self._switches(conversation)),
        )

    def _switches(self, conversation: Conversation) -> Mapping[str, Any]:
        reserved = sorted(RESERVED & conversation.template.keys())
        if reserved:
            message = f"The template variable {reserved[0]!r} is set by the server; leave it out."
            raise ApiError("invalid", message, param="chat_template_kwargs")
        thinking = self._thinking if conversation.thinking is None else conversation.thinking
        keep = bool(conversation.tools) if conversation.keep_reasoning is None else conversation.keep_reasoning
        # The second switch had another name in the family's earlier templates.
        names = ("save_reasoning_content", "save_history_reasoning_content")
        return {"enable_thinking": thinking, **dict.fromkeys(names, keep), **conversation.template}

    def _check_length(self, text: str, field: str) -> None:
        if len(text) > self.max_characters:
            message = f"The prompt has {len(text)} characters; at most {self.max_characters} are taken."
            raise ApiError("context_length", message, param=field)


def _declaration(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}

"""Text to token ids and back: a thin wrapper over the `tokenizers` library for the family's byte-level BPE."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from homegrown.tokenizer import chat, files
from homegrown.tokenizer.bytelevel import bytes_table
from homegrown.tokenizer.errors import TokenizerError
from homegrown.tokenizer.stream import TokenStream, token_bytes
from homegrown.tokenizer.template import CHAT_TEMPLATE


class Tokenizer:
    """A byte-level BPE tokenizer with special tokens and a chat template.

    Any text survives `decode(encode(text))` unchanged: there is no normalisation and no unknown token.

    Args:
        definition: the content of a `tokenizer.json`; `save` writes it back byte for byte.
        config: the content of a `tokenizer_config.json` without its chat template; by default the family's.
        chat_template: Jinja source, or None if there is none: `render_chat` then takes the family's.
        where: what error messages call it.

    Raises:
        TokenizerError: the definition is not a byte-level BPE, or names no end-of-sequence token.
    """

    def __init__(
        self,
        definition: str,
        config: Mapping[str, Any] | None = None,
        chat_template: str | None = CHAT_TEMPLATE,
        where: str = "tokenizer",
    ) -> None:
        self._definition = definition
        self._config = dict(files.FAMILY_CONFIG if config is None else config)
        self.chat_template = chat_template
        self._inner = files.parse(definition, where)
        self._added = {token.content: index for index, token in self._inner.get_added_tokens_decoder().items()}
        self.bos_id: int = self._special_id("bos_token", where)
        """Id of the token that starts every document."""
        self.eos_id: int = self._special_id("eos_token", where)
        """Id of the token that ends every document and every turn of a chat."""
        self.pad_id: int = self._special_id("pad_token", where) if self._config.get("pad_token") else self.eos_id
        """Id that fills unused positions: the end-of-sequence token where the files declare no padding token."""

    @classmethod
    def from_dir(cls, path: str | Path) -> Tokenizer:
        """Read a directory with `tokenizer.json`, and `tokenizer_config.json` and `chat_template.jinja` if present.

        Raises:
            TokenizerError: a file is missing or is not what it should be; the message names it.
        """
        path = Path(path)
        config, template = files.read_config(path)
        return cls(files.read_definition(path), config, template, where=str(path / files.TOKENIZER_FILE))

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` (chat template inside), as `transformers` reads them."""
        files.write(Path(path), self._definition, self._config, self.chat_template)

    @cached_property
    def vocab_size(self) -> int:
        """Ids are below this: the highest id, plus one."""
        return len(self._bytes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the definition: equal digests encode equally."""
        return hashlib.sha256(self._definition.encode()).hexdigest()

    @property
    def added_tokens(self) -> Mapping[str, int]:
        """Tokens that are matched verbatim before the BPE, by their text: the special tokens, with their ids."""
        return self._added

    def token_id(self, token: str) -> int | None:
        """The id of a token by its text, such as `<longcat_think>`, or None."""
        return self._inner.token_to_id(token)

    def encode(self, text: str, *, plain: bool = False) -> list[int]:
        """The ids of `text`; nothing is added before or after.

        Args:
            text: any Unicode text.
            plain: read a special token's spelling in the text as mere characters. For text that others wrote: a
                document or a user cannot then forge a boundary.

        Raises:
            TokenizerError: the text has a lone surrogate, which is no Unicode character and has no UTF-8 form.
        """
        return self.encode_batch([text], plain=plain)[0]

    def encode_batch(self, texts: Sequence[str], *, plain: bool = False) -> list[list[int]]:
        """`encode` of every text, on all cores."""
        encoder = self._plain if plain else self._inner
        try:
            return [item.ids for item in encoder.encode_batch_fast(list(texts), add_special_tokens=False)]
        except TypeError:
            for index, text in enumerate(texts):
                _refuse_surrogates(text, index)
            raise

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD.

        Args:
            ids: token ids; one that the vocabulary does not assign decodes to nothing.
            skip_special: leave out control tokens (turn and role tokens; reasoning and tool tags stay).
        """
        skipped = self._control if skip_special else frozenset()
        return self.decode_bytes(token for token in ids if token not in skipped).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`, exactly."""
        table = self._bytes
        return b"".join([token_bytes(table, token) for token in ids])

    def stream(self, *, skip_special: bool = False) -> TokenStream:
        """A detokenizer for ids that arrive one at a time."""
        return TokenStream(self._bytes, self._control if skip_special else frozenset())

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **switches: Any,
    ) -> str:
        """A conversation as the text the model reads; encode it with special tokens on (`plain=False`).

        Args:
            messages: dicts with role and content, and reasoning_content, tool_calls, name as the OpenAI API has them.
            tools: tool declarations, same source.
            add_generation_prompt: open the assistant's turn.
            switches: further template variables (`enable_thinking`, `save_reasoning_content`, ...).

        Raises:
            TokenizerError: the template refuses the messages.
        """
        return chat.render(
            self.chat_template or CHAT_TEMPLATE,
            messages,
            tools=tools,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._token_variables(),
            **switches,
        )

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same BPE without added tokens, so that no text can match one."""
        return files.parse(json.dumps({**json.loads(self._definition), "added_tokens": []}), "tokenizer")

    @cached_property
    def _bytes(self) -> list[bytes]:
        return bytes_table(self._inner.get_vocab(with_added_tokens=False), self._added)

    @cached_property
    def _control(self) -> frozenset[int]:
        added = self._inner.get_added_tokens_decoder()
        return frozenset(index for index, token in added.items() if token.special)

    def _token_variables(self) -> dict[str, str]:
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return {name: files.token_text(self._config[name]) for name in names if self._config.get(name)}

    def _special_id(self, key: str, where: str) -> int:
        declared = self._config.get(key) or files.FAMILY_CONFIG[key]
        token = files.token_text(declared)
        index = self._inner.token_to_id(token)
        if index is None:
            raise TokenizerError(f"{where}: {key} is {token!r}, which is not in the vocabulary")
        return index


def _refuse_surrogates(text: str, index: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(f"text {index}: not Unicode text: {error}") from None

"""The files of a tokenizer directory, as `transformers` lays them out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from homegrown.config.atomic import write_text
from homegrown.tokenizer.errors import TokenizerError
from homegrown.tokenizer.special import BOS, CONTROL_TOKENS, EOS, PAD, UNK

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"

FAMILY_CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "unk_token": UNK,
    "bos_token": BOS,
    "eos_token": EOS,
    "pad_token": PAD,
    "additional_special_tokens": [token for token in CONTROL_TOKENS if token not in (UNK, BOS, EOS, PAD)],
    "add_bos_token": False,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
}
"""`tokenizer_config.json` of the tokenizers that Homegrown trains."""


def read_definition(path: Path) -> str:
    """The content of `tokenizer.json` in the directory `path`."""
    file = path / TOKENIZER_FILE
    try:
        return file.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise TokenizerError(f"{file}: no such file; a tokenizer directory holds {TOKENIZER_FILE}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{file}: cannot be read: {error}") from None


def read_config(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """`tokenizer_config.json` without its template (None if there is no such file), and the chat template if any.

    `chat_template.jinja` goes before a template in the config, as in `transformers`.
    """
    config = _read_json(path / CONFIG_FILE)
    template = None if config is None else _default_template(config.pop("chat_template", None), path / CONFIG_FILE)
    try:
        template = (path / TEMPLATE_FILE).read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path / TEMPLATE_FILE}: cannot be read: {error}") from None
    return config, template


def write(path: Path, definition: str, config: Mapping[str, Any], template: str | None) -> None:
    """Write a tokenizer directory; each file appears whole or not at all.

    A `chat_template.jinja` already there would go before the template written here, so it is replaced too.
    """
    content = dict(config) if template is None else {**config, "chat_template": template}
    write_text(path / TOKENIZER_FILE, definition)
    write_text(path / CONFIG_FILE, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    (path / TEMPLATE_FILE).unlink(missing_ok=True)


def parse(definition: str, where: str) -> tokenizers.Tokenizer:
    """The tokenizer that `tokenizer.json` defines, with padding and truncation off.

    Raises:
        TokenizerError: it is not JSON, not a tokenizer, or not a byte-level BPE.
    """
    try:
        table = json.loads(definition)
        inner = tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"{where}: not a tokenizer definition: {error}") from None
    kind = table["model"].get("type", "BPE")
    if kind != "BPE" or not _is_byte_level(table.get("decoder")):
        raise TokenizerError(f"{where}: the family's tokenizers are byte-level BPE, this one is {kind} without that")
    inner.no_padding()
    inner.no_truncation()
    return inner


def token_text(declared: str | Mapping[str, Any]) -> str:
    """The text of a token that a config declares, as a string or as a table with `content`."""
    return declared if isinstance(declared, str) else declared["content"]


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        table = json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{file}: not readable as JSON: {error}") from None
    if not isinstance(table, dict):
        raise TokenizerError(f"{file}: must be a JSON object")
    return table


def _default_template(declared: Any, file: Path) -> str | None:
    """A config holds one template, or a list of named ones of which `default` counts."""
    if declared is None or isinstance(declared, str):
        return declared
    named = {entry.get("name"): entry.get("template") for entry in declared}
    if not isinstance(named.get("default"), str):
        raise TokenizerError(f"{file}: chat_template names {', '.join(map(str, named))}, but no 'default'")
    return named["default"]


def _is_byte_level(decoder: Mapping[str, Any] | None) -> bool:
    if decoder is None:
        return False
    if decoder["type"] == "Sequence":
        return any(_is_byte_level(part) for part in decoder["decoders"])
    return decoder["type"] == "ByteLevel"

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from homegrown.tokenizer import Tokenizer

MESSAGES = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "add"},
    {
        "role": "assistant",
        "reasoning_content": "hm",
        "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1, "b": "é<"}}}],
    },
    {"role": "tool", "name": "add", "content": "ok"},
]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def theirs(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    transformers = pytest.importorskip("transformers")
    path: Path = tmp_path_factory.mktemp("saved")
    tokenizer.save(path)
    return transformers.AutoTokenizer.from_pretrained(path)


def test_special_tokens(theirs: Any) -> None:
    assert (theirs.unk_token_id, theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 1, 2, 3)
    assert len(theirs) == 700
    assert "<longcat_user>" in theirs.all_special_tokens
    assert "<longcat_think>" not in theirs.all_special_tokens


@pytest.mark.parametrize("text", ["def f(x):\n    return x ** 2\n", "<longcat_user>é学🙂 12</longcat_s>", "", "  "])
def test_encoding_and_decoding(tokenizer: Tokenizer, theirs: Any, text: str) -> None:
    ids = tokenizer.encode(text)
    assert theirs(text)["input_ids"] == ids
    assert theirs.decode(ids) == text
    assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special=True)


@pytest.mark.parametrize("switches", [{}, {"enable_thinking": False}, {"add_generation_prompt": False}])
def test_chat_template(tokenizer: Tokenizer, theirs: Any, switches: dict[str, bool]) -> None:
    arguments = {"add_generation_prompt": True, **switches}
    rendered = theirs.apply_chat_template(MESSAGES, tools=TOOLS, tokenize=False, **arguments)
    assert rendered == tokenizer.render_chat(MESSAGES, tools=TOOLS, **switches)

from __future__ import annotations

import inspect
import json
import tokenize

import pytest

from homegrown.tokenizer import Tokenizer, train_tokenizer

TEXTS = [inspect.getsource(module) for module in (json, inspect, tokenize)] + ["naïve café, 深度学习, 🙂 ∑ ünï\n"] * 3


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A tokenizer of 700 ids, trained on some Python and a little of everything else."""
    return train_tokenizer(TEXTS, 700)

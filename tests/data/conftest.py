from __future__ import annotations

import random
from pathlib import Path

import pytest

from homegrown.data import Intake, TokenDataset, open_corpus, tokenizer_for, write_dataset


def write_corpus(folder: Path, documents: int, seed: int = 0) -> None:
    """Made-up Python files of 1 to 60 lines."""
    rng = random.Random(seed)
    words = ["def", "return", "self", "value", "for", "in", "range", "print", "é", "学习", "🙂"]
    for index in range(documents):
        lines = [" ".join(rng.choices(words, k=rng.randint(1, 8))) for _ in range(rng.randint(1, 60))]
        path = folder / f"{index % 3}" / f"file{index:03d}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n    ".join(lines) + f"\n# {index}\n", "utf-8")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, 60)
    return folder


@pytest.fixture(scope="session")
def intake(corpus: Path) -> Intake:
    return Intake([open_corpus(str(corpus))], held_fraction=0.2)


@pytest.fixture(scope="session")
def dataset(intake: Intake, tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    """60 documents, about 12 held out, in shards of at most 1,500 tokens."""
    out = tmp_path_factory.mktemp("datasets") / "small"
    return write_dataset(intake, tokenizer_for(intake, 400), out, shard_tokens=1500)

from __future__ import annotations

import gzip
import lzma
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from homegrown.data import DatasetError, Intake, TokenDataset, baselines, open_corpus, write_dataset
from homegrown.data.baselines import compress


def test_of_a_dataset(dataset: TokenDataset) -> None:
    held = b"".join(dataset.texts("held"))
    measured = baselines(dataset)
    assert measured.primed_bytes == dataset.train.bytes
    assert measured.table() == {
        "gzip -9": 8 * len(gzip.compress(held, 9)) / len(held),
        "xz -9e": 8 * len(lzma.compress(held, preset=9 | lzma.PRESET_EXTREME)) / len(held),
        "xz -9e primed": measured.xz_primed,
    }
    assert measured.xz_primed < measured.xz
    assert 0 < baselines(dataset, prime_bytes=2000).primed_bytes <= 2000


@pytest.mark.skipif(shutil.which("xz") is None, reason="needs the xz command")
def test_xz_is_that_of_the_command(tmp_path: Path) -> None:
    text = Path(lzma.__file__).read_bytes()
    size = len(subprocess.run(["xz", "-9e", "-c"], input=text, capture_output=True, check=True).stdout)
    assert compress(b"", text).xz == 8 * size / len(text)


def test_priming_reaches_back_over_all_the_training_text() -> None:
    """What is held out stands at the very beginning of megabytes that do not compress."""
    rng = random.Random(0)
    held, noise = rng.randbytes(20_000), rng.randbytes(2_000_000)
    measured = compress(held + noise, held)
    assert measured.xz > 8
    # One match covers at most 273 bytes and costs some ten: 0.3 bits a byte.
    assert measured.xz_primed < 0.5


def test_nothing_held_out_is_an_error(corpus: Path, dataset: TokenDataset, tmp_path: Path) -> None:
    written = write_dataset(Intake([open_corpus(str(corpus))], held_fraction=0), dataset.tokenizer(), tmp_path / "out")
    with pytest.raises(DatasetError, match="nothing is held out"):
        baselines(written)

"""Documents to a dataset directory: encode, append to shards, seal with a fingerprint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from homegrown.config.atomic import atomic_dir
from homegrown.data.dataset import (
    FORMAT,
    MANIFEST,
    SOURCES,
    SPLITS,
    TOKENIZER_DIR,
    Content,
    Manifest,
    TokenDataset,
    hash_file,
)
from homegrown.data.errors import CorpusError, DatasetError
from homegrown.data.intake import Accepted, Intake, SkipLog
from homegrown.data.progress import Progress, Silent
from homegrown.data.shards import FileRecord, SplitWriter, Tokens, token_dtype
from homegrown.tokenizer import Tokenizer

SHARD_TOKENS = 2**28
"""Default length of a shard: half a gigabyte of uint16."""
SKIPPED = "skipped.jsonl"
"""Everything that was left out, one JSON object a line."""

_BATCH_DOCUMENTS = 256
_BATCH_BYTES = 2**22


def write_dataset(
    intake: Intake,
    tokenizer: Tokenizer,
    out: Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    progress: Progress | None = None,
) -> TokenDataset:
    """Encode the intake's documents into a new dataset directory; it appears whole or not at all.

    The corpora may be larger than memory: they are read once, a few megabytes at a time. The same documents, tokenizer
    and split give the same bytes and so the same fingerprint, on every machine.

    Args:
        intake: the documents.
        tokenizer: encodes them; saved with them.
        out: the directory to make.
        shard_tokens: where a shard ends and the next begins.
        progress: told of the stages.

    Raises:
        DatasetError: `out` exists already, or the tokenizer cannot mark document boundaries.
        CorpusError: there are no documents, or none for training, or none held out although some should be.
    """
    if shard_tokens < 1:
        raise DatasetError(f"shard_tokens = {shard_tokens}: must be at least 1")
    if tokenizer.bos_id == tokenizer.eos_id:
        raise DatasetError("the tokenizer begins and ends documents with the same token; boundaries need two")
    refuse_existing(out)
    progress = progress or Silent()
    progress.stage("encoding", intake.text_bytes)
    with atomic_dir(out) as folder:
        tokenizer.save(folder / TOKENIZER_DIR)
        with (folder / SKIPPED).open("w", encoding="utf-8") as skipped_file:
            skips = SkipLog(skipped_file)
            content = _write_splits(intake.documents(skips), tokenizer, folder, shard_tokens, progress)
        _refuse_empty_splits(content, intake)
        manifest = Manifest(fingerprint=content.fingerprint(), content=content, provenance=_provenance(intake, skips))
        (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    return TokenDataset.open(out)


def refuse_existing(out: Path) -> None:
    """Raise `DatasetError` if `out` exists: a dataset is never replaced."""
    if out.exists():
        raise DatasetError(f"{out} exists already: choose another directory or remove it first")


def _write_splits(
    documents: Iterable[Accepted], tokenizer: Tokenizer, folder: Path, shard_tokens: int, progress: Progress
) -> Content:
    dtype = token_dtype(tokenizer.vocab_size)
    writers = {name: SplitWriter(folder, name, dtype, shard_tokens) for name in SPLITS}
    with ExitStack() as stack:
        sources = {}
        for name, writer in writers.items():
            stack.callback(writer.abort)
            sources[name] = stack.enter_context((folder / name / SOURCES).open("wb"))
        for batch in _batches(documents):
            for document, ids in zip(batch, tokenizer.encode_batch([d.text for d in batch], plain=True), strict=True):
                name = "held" if document.held else "train"
                writers[name].add(_framed(ids, tokenizer, document.source), document.text_bytes)
                sources[name].write(msgspec.json.encode(document.source) + b"\n")
            progress.advance(len(batch), sum(document.text_bytes for document in batch))
        for writer in writers.values():
            writer.close()
    files: dict[str, FileRecord] = {}
    for writer in writers.values():
        files |= writer.files
    for file in sorted((folder / TOKENIZER_DIR).iterdir()):
        files[f"{TOKENIZER_DIR}/{file.name}"] = hash_file(file)
    return Content(
        format=FORMAT,
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        tokenizer=tokenizer.digest,
        splits={name: writer.shards for name, writer in writers.items()},
        files=files,
    )


def _batches(documents: Iterable[Accepted]) -> Iterator[list[Accepted]]:
    """Enough documents at a time to keep all cores encoding, few enough to fit in memory."""
    batch: list[Accepted] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.text_bytes
        if size >= _BATCH_BYTES or len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _framed(ids: list[int], tokenizer: Tokenizer, source: str) -> Tokens:
    """`[BOS, ..., EOS]`; boundaries are found by these ids later, so no text may encode to them."""
    tokens = np.empty(len(ids) + 2, np.uint32)
    tokens[0], tokens[1:-1], tokens[-1] = tokenizer.bos_id, ids, tokenizer.eos_id
    inner = tokens[1:-1]
    if np.any((inner == tokenizer.bos_id) | (inner == tokenizer.eos_id)):
        raise DatasetError(f"{source}: its text encodes to a beginning- or end-of-sequence id; use another tokenizer")
    return tokens


def _refuse_empty_splits(content: Content, intake: Intake) -> None:
    documents = {name: sum(shard.documents for shard in shards) for name, shards in content.splits.items()}
    if not documents["train"]:
        raise CorpusError(f"all {documents['held']} documents are held out: lower the held-out fraction")
    if not documents["held"] and intake.held_fraction > 0:
        raise CorpusError(
            f"none of {documents['train']} documents is held out at a fraction of {intake.held_fraction}: "
            "raise it, give more documents (a document is a file, a JSON line or a row), or set it to 0"
        )


def _provenance(intake: Intake, skips: SkipLog) -> dict[str, Any]:
    return {
        "corpora": [corpus.name for corpus in intake.corpora],
        "held_fraction": intake.held_fraction,
        "seed": intake.seed,
        "deduplicated": intake.deduplicate,
        "left_out": dict(sorted(skips.counts.items())),
    }

"""Corpora to token shards, and a global order of batches that is a pure function of (seed, step). Imports no torch."""

from homegrown.data.baselines import Baselines, baselines
from homegrown.data.batches import Batch, Batches
from homegrown.data.corpus import Corpus, open_corpus
from homegrown.data.dataset import TokenDataset
from homegrown.data.documents import Document, Skipped
from homegrown.data.errors import CorpusError, DataError, DatasetError
from homegrown.data.intake import Accepted, Intake, SkipLog
from homegrown.data.progress import Progress
from homegrown.data.shards import Split
from homegrown.data.vocabulary import tokenizer_for
from homegrown.data.writing import refuse_existing, write_dataset

__all__ = [
    "Accepted",
    "Baselines",
    "Batch",
    "Batches",
    "Corpus",
    "CorpusError",
    "DataError",
    "DatasetError",
    "Document",
    "Intake",
    "Progress",
    "SkipLog",
    "Skipped",
    "Split",
    "TokenDataset",
    "baselines",
    "open_corpus",
    "refuse_existing",
    "tokenizer_for",
    "write_dataset",
]

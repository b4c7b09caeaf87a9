"""The record of a run: a hash chain of what happened, and the stream of its metrics. Imports no torch."""

from homegrown.ledger.chain import GENESIS, LedgerError, Record, TornTailError, walk
from homegrown.ledger.ledger import Ledger
from homegrown.ledger.metrics import MetricsError, MetricsWriter, read_metrics, walk_metrics
from homegrown.ledger.silent import SilentLedger, SilentMetrics

__all__ = [
    "GENESIS",
    "Ledger",
    "LedgerError",
    "MetricsError",
    "MetricsWriter",
    "Record",
    "SilentLedger",
    "SilentMetrics",
    "TornTailError",
    "read_metrics",
    "walk",
    "walk_metrics",
]

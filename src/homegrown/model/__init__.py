"""The LongCat family's architecture, and nothing else: no file here knows of devices, ranks or training runs."""

from homegrown.model.context import Cache, CachedContext, Context, FullContext
from homegrown.model.count import ParameterCount, count, training_flops
from homegrown.model.history import History
from homegrown.model.longcat import Longcat, Trunk, shifted
from homegrown.model.mtp import Draft
from homegrown.model.ngram import sparse_lookup
from homegrown.model.router import Routing

__all__ = [
    "Cache",
    "CachedContext",
    "Context",
    "Draft",
    "FullContext",
    "History",
    "Longcat",
    "ParameterCount",
    "Routing",
    "Trunk",
    "count",
    "shifted",
    "sparse_lookup",
    "training_flops",
]

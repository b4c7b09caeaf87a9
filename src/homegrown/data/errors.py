"""What goes wrong with corpora and datasets."""

from __future__ import annotations

from homegrown.config import UserError


class DataError(UserError):
    """Text or tokens are not what they must be; the message names the file and what would be right."""


class CorpusError(DataError):
    """A corpus does not exist, cannot be read at all, or holds no text."""


class DatasetError(DataError):
    """A token dataset is missing, damaged, or not the one that a run was started with."""

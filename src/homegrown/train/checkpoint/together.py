"""The one step that every protocol here is made of: all ranks work, rank 0 concludes, all learn how it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from homegrown.config import UserError
from homegrown.train.checkpoint.peers import Absent, PeerError, Peers


class RankError(Exception):
    """Something failed on some rank; the message says on which.

    Attributes:
        fatal: trying again cannot help: the state itself is at fault.
    """

    def __init__(self, message: str, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


def together(peers: Peers, work: Callable[[], Any], conclude: Callable[[list[Any]], Any]) -> Any:
    """Let every rank work, rank 0 conclude from all their results, and every rank have the conclusion.

    Results and conclusions are what JSON can say. A rank that fails says so in place of its result, since the others
    wait for its word.

    Args:
        peers: the ranks.
        work: done by every rank.
        conclude: done by rank 0, with the results by rank.

    Raises:
        RankError: on every rank, if one of them failed or died, or the conclusion failed.
        PeerError: the rank that was to say how it ended does not answer.
    """
    word, cause = _attempt(peers, work)
    words = peers.gather(word)
    if words is not None:
        failed = _worst(words)
        if failed:
            word = failed
        else:
            word, cause = _attempt(peers, lambda: conclude([word["value"] for word in words]))
    word = peers.broadcast(word)
    if "error" in word:
        raise RankError(word["error"], word["fatal"]) from cause
    return word["value"]


def describe(error: BaseException) -> str:
    """An exception in one line; of a failing disk, the file and what the system says."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, RankError | PeerError | UserError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def _attempt(peers: Peers, work: Callable[[], Any]) -> tuple[dict[str, Any], BaseException | None]:
    try:
        return {"value": work()}, None
    except Exception as error:
        where = f"rank {peers.rank}: " if peers.size > 1 else ""
        return {"error": where + describe(error), "fatal": getattr(error, "fatal", False)}, error


def _worst(words: list[Any]) -> dict[str, Any] | None:
    """The failure that is told, if there is any: a fatal one, or the lowest rank's."""
    told = [{"error": str(word), "fatal": False} if isinstance(word, Absent) else word for word in words]
    failed: list[dict[str, Any]] = [word for word in told if "error" in word]
    return next((word for word in failed if word["fatal"]), failed[0] if failed else None)

"""What an operator may set of the HTTP side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Options:
    """Times are seconds; 0 is no limit where nothing else is said.

    Attributes:
        model: what the served model is called in metrics and records.
        max_body: bytes of a request.
        max_upload: bytes of an uploaded file.
        max_bodies: bytes of all requests' bodies in memory together.
        max_waiting: requests that wait for their first token.
        max_ttft: refuse requests whose turn is predicted to come later than this.
        drain_s: how long running requests may go on once the server was told to end.
        log: lines of JSON, text for people, or none.
        log_prompts: log the bodies of requests.
        open_metrics: `/metrics` and `/v1/load` ask for no key.
        origins: of web pages that may ask, beside the server's own; `*` is all.
        local: only requests to localhost are taken.
        usage: database of usage records; None keeps none.
        files: directory of uploaded files and batches; None: there are none.
        max_files: bytes of all files together.
        batch_running: requests of batches that run at a time.
        otlp: where traces go, such as http://localhost:4318/v1/traces; empty: nowhere.
        secret: what signs the model's reasoning; give replicas of the same clients the same. Empty: a random one.
        replica: this server's name in the header `x-replica`.
    """

    model: str = "model"
    max_body: int = 32 * MIB
    max_upload: int = 512 * MIB
    max_bodies: int = 512 * MIB
    max_waiting: int = 256
    max_ttft: float = 60.0
    drain_s: float = 30.0
    log: Literal["json", "text", "off"] = "json"
    log_prompts: bool = False
    open_metrics: bool = False
    origins: tuple[str, ...] = ()
    local: bool = False
    usage: Path | None = None
    files: Path | None = None
    max_files: int = 8192 * MIB
    batch_running: int = 8
    otlp: str = ""
    secret: str = ""
    replica: str = ""

"""Who asks: clients, their keys and what each may use.

Keys are kept and compared as SHA-256 digests: a file of keys, a core dump or a log has none that could be used. They
are random and long, so that a digest without salt or stretching cannot be inverted.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from homegrown.config import ConfigError

PREFIX = "hg-"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LARGEST = 2**53
"""Priorities and limits stay exact in every JSON reader."""


@dataclass(frozen=True, kw_only=True)
class Client:
    """Whoever holds a key, and what it may use; 0 is no limit.

    Attributes:
        name: of the key: in logs, usage records and metrics.
        tenant: fairness is between these; several keys may share one.
        priority: higher first.
        requests_per_minute, tokens_per_minute: prompt and completion tokens together. Both may be used in one burst.
        tokens_per_day, tokens_per_month: budgets, by UTC calendar.
        concurrent: requests at a time.
        admin: may read the usage of all keys.
    """

    name: str
    tenant: str
    priority: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0
    tokens_per_month: int = 0
    concurrent: int = 0
    admin: bool = False


ANONYMOUS = Client(name="anonymous", tenant="", admin=True)
"""Everybody, where no keys are configured."""

_SETTINGS = {field.name: field.type for field in fields(Client)}


class Keys:
    """The keys that a server takes.

    Args:
        clients: by the SHA-256 of their keys, in lower-case hexadecimal.
    """

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self._clients = [(bytes.fromhex(digest), client) for digest, client in clients.items()]

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def clients(self) -> list[Client]:
        """All of them."""
        return [client for _, client in self._clients]

    def find(self, key: str) -> Client | None:
        """The client with this key. Takes as long whichever key it is, and whether it is one."""
        presented = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for digest, client in self._clients:
            if hmac.compare_digest(digest, presented):
                found = client
        return found


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A random key of 256 bits."""
    return PREFIX + secrets.token_urlsafe(32)


def plain_keys(keys: Iterable[str]) -> dict[str, Client]:
    """Clients without limits for keys given on the command line or in the environment.

    Raises:
        ConfigError: a key is shorter than 8 characters: nobody means that one, and it could be guessed.
    """
    clients = {}
    for number, key in enumerate(keys, 1):
        if len(key) < 8:
            raise ConfigError(f"API key {number} has {len(key)} characters; a key has at least 8")
        name = f"key-{digest(key)[:8]}"
        clients[digest(key)] = Client(name=name, tenant=name)
    return clients


def read_keys(path: Path) -> dict[str, Client]:
    """The clients of a TOML file.

    A table per key, as `homegrown serve key NAME` prints it; all but the first line of each are optional:

        [keys.ada]
        sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        tenant = "research"
        priority = 1
        requests_per_minute = 60
        tokens_per_minute = 100000
        tokens_per_day = 5000000
        tokens_per_month = 100000000
        concurrent = 8
        admin = true

    Raises:
        ConfigError: the file is not like that; the message names file and key.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from None
    entries = table.pop("keys", {})
    if table or not isinstance(entries, dict):
        raise ConfigError(f"{path}: expected tables [keys.NAME] and nothing else, found {', '.join(table) or 'keys'}")
    clients: dict[str, Client] = {}
    for name, entry in entries.items():
        where = f"{path}: keys.{name}"
        if not isinstance(entry, dict) or not _DIGEST.fullmatch(str(entry.get("sha256", ""))):
            raise ConfigError(f"{where}: needs sha256, the key's SHA-256 in 64 lower-case hexadecimal digits")
        if entry["sha256"] in clients:
            raise ConfigError(f"{where}: has the same key as {clients[entry['sha256']].name}")
        settings = {key: value for key, value in entry.items() if key != "sha256"}
        clients[entry["sha256"]] = _client(name, settings, where)
    return clients


def entry(name: str, key: str) -> str:
    """The lines that `read_keys` wants for a new key."""
    return f'[keys."{name}"]\nsha256 = "{digest(key)}"\n'


def _client(name: str, settings: dict[str, Any], where: str) -> Client:
    for key, value in settings.items():
        if key == "name" or key not in _SETTINGS:
            known = ", ".join(sorted({*_SETTINGS, "sha256"} - {"name"}))
            raise ConfigError(f"{where}: unknown key {key!r}; known are {known}")
        kind = {"str": str, "int": int, "bool": bool}[str(_SETTINGS[key])]
        if type(value) is not kind:
            raise ConfigError(f"{where}.{key}: must be of type {kind.__name__}, not {value!r}")
        if isinstance(value, int) and not (-_LARGEST if key == "priority" else 0) <= value <= _LARGEST:
            raise ConfigError(f"{where}.{key} = {value}: out of range; 0 is no limit")
    return Client(**{"name": name, "tenant": name, **settings})

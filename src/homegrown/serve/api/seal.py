"""Signatures and seals: what clients hand back of a model's reasoning can be told from what they made up."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import zlib

_SIGNED, _SEALED = "hgs1.", "hg1."
_TAG = 32
"""Bytes of an HMAC with SHA-256."""


class Seal:
    """A server's secret and what it certifies. Nothing is hidden: a sealed text is packed and signed, not encrypted.

    Args:
        secret: at least 16 bytes, the same in all replicas that serve the same clients; by default a random one, with
            which texts sealed before a restart no longer open.

    Raises:
        ValueError: the secret is too short.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        if secret is not None and len(secret) < 16:
            raise ValueError(f"the secret of a seal has {len(secret)} bytes: it must have at least 16")
        self._secret = secret or secrets.token_bytes(32)

    def sign(self, text: str) -> str:
        """A signature of `text`, which does not contain it."""
        return _SIGNED + _encode(self._tag(_SIGNED, text.encode()))

    def verify(self, text: str, signature: str) -> bool:
        """Whether `sign` made this signature of this text."""
        return hmac.compare_digest(self.sign(text).encode(), signature.encode("utf-8", "replace"))

    def seal(self, text: str) -> str:
        """`text` in a form that `open` takes back and nobody else can make."""
        packed = zlib.compress(text.encode())
        return _SEALED + _encode(self._tag(_SEALED, packed) + packed)

    def open(self, sealed: str) -> str | None:
        """The text of `seal`, or None where this server did not seal it."""
        if not sealed.startswith(_SEALED):
            return None
        try:
            content = base64.urlsafe_b64decode(sealed[len(_SEALED) :].encode())
        except ValueError:
            return None
        tag, packed = content[:_TAG], content[_TAG:]
        if not hmac.compare_digest(tag, self._tag(_SEALED, packed)):
            return None
        return zlib.decompress(packed).decode()  # its size is bounded: only our own texts come this far

    def _tag(self, purpose: str, content: bytes) -> bytes:
        return hmac.digest(self._secret, purpose.encode() + content, hashlib.sha256)


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode()

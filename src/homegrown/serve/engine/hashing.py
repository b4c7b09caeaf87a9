"""Names for the pages of a text: equal for texts that are equal up to the page's end."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import NamedTuple

DIGEST_BYTES = 16


class PageKey(NamedTuple):
    """A page's name.

    Attributes:
        digest: of the salt and all tokens up to the page's end.
        content: the page's own tokens, to be compared where digests are equal.
    """

    digest: bytes
    content: bytes


def page_keys(tokens: Sequence[int], page_size: int, salt: str = "", known: Sequence[PageKey] = ()) -> list[PageKey]:
    """The keys of a text's full pages; a page that is not full has none.

    Args:
        tokens: from the text's start.
        page_size: tokens in a page.
        salt: texts under different salts share no key.
        known: keys of the first pages, from an earlier call; these are not computed again.
    """
    keys = list(known)
    digest = keys[-1].digest if keys else hashlib.blake2b(salt.encode(), digest_size=DIGEST_BYTES).digest()
    for start in range(len(keys) * page_size, len(tokens) // page_size * page_size, page_size):
        content = array("q", tokens[start : start + page_size]).tobytes()
        digest = hashlib.blake2b(digest + content, digest_size=DIGEST_BYTES).digest()
        keys.append(PageKey(digest, content))
    return keys

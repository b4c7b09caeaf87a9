"""Token texts of a byte-level vocabulary back to the bytes they stand for."""

from __future__ import annotations

from functools import cache


@cache
def byte_of_char() -> dict[str, int]:
    """The alphabet of byte-level BPE: each of its 256 characters, and the byte it stands for.

    Printable Latin-1 characters stand for themselves, the other bytes for the characters from U+0100 on (the alphabet
    of GPT-2, which every byte-level `tokenizer.json` uses).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    shifted = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + index): byte for index, byte in enumerate(shifted)}


def bytes_table(vocabulary: dict[str, int], added: dict[str, int]) -> list[bytes]:
    """The bytes of every id: entry `i` is what id `i` decodes to.

    Args:
        vocabulary: token text (in the byte-level alphabet) to id.
        added: added token (plain text, matched verbatim before the BPE) to id.

    Returns:
        One entry for each id up to the highest; an id that nothing claims decodes to nothing.
    """
    alphabet = byte_of_char()
    table = [b""] * (1 + max([*vocabulary.values(), *added.values()]))
    for token, index in vocabulary.items():
        if token not in added:
            table[index] = bytes(alphabet[char] for char in token)
    for token, index in added.items():
        table[index] = token.encode()
    return table

"""GPT-2's spelling of bytes as printable characters.

Bytes that are printable in Latin-1 stand for themselves; the other 68, in order, are U+0100, U+0101, …
Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", released encoder.
"""

from __future__ import annotations

_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]

BYTE_OF_CHAR: dict[str, int] = {chr(byte): byte for byte in _PRINTABLE}
BYTE_OF_CHAR.update({chr(0x100 + index): byte for index, byte in enumerate(_OTHERS)})


def piece_bytes(piece: str) -> bytes:
    """The bytes a byte-level piece spells; a piece with a character outside the alphabet stands for its own UTF-8."""
    try:
        return bytes([BYTE_OF_CHAR[char] for char in piece])
    except KeyError:
        return piece.encode("utf-8", "replace")

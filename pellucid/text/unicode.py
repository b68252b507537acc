"""Text that can be written as UTF-8."""

from __future__ import annotations


def valid_text(text: str | bytes) -> str:
    """`text` with lone surrogates, or bytes that are not UTF-8, replaced by U+FFFD. Surrogate pairs are joined."""
    if isinstance(text, bytes):
        return text.decode("utf-8", "replace")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text

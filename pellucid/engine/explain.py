"""Explain: what each sentence of a text does for a label, found by leaving it out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise

_END = re.compile(
    r"""(?: (?<![.!?…]) [.!?…]++ ["'”’»)\]]*+ (?=\s|$) | (?<![。！？]) [。！？]++ [」』）]*+ | \n ) \s*+""",
    re.VERBOSE,
)
"""A sentence's end. Possessive, and begun once in a run of marks: linear, whatever the text."""


def sentences(text: str) -> list[str]:
    """The text in pieces that give it again when joined: each ends with . ! ? … and a space, 。！？ or a line's end."""
    cuts = [0, *(match.end() for match in _END.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if a < b]


def without_each(text: str) -> list[tuple[str, str]]:
    """Each sentence, and the text without it."""
    pieces = sentences(text)
    return [(piece.strip(), "".join(pieces[:i] + pieces[i + 1 :]).strip()) for i, piece in enumerate(pieces)]


def log_odds(scores: Mapping[str, float], label: str) -> float:
    """log p/(1-p) of `label` under softmax(scores), without rounding p first."""
    others = [score for name, score in scores.items() if name != label]
    top = max(others)
    return scores[label] - top - math.log(sum(math.exp(score - top) for score in others))

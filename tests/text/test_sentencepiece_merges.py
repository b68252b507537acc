from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pellucid.text.sentencepiece_merges import merges_from_scores


def expected(pieces: list[str], scores: np.ndarray) -> list[tuple[str, str]]:
    known = set(pieces)
    by_score = [pieces[index] for index in np.argsort(-scores, kind="stable")]
    splits = [(piece[:at], piece[at:]) for piece in by_score for at in range(1, len(piece))]
    return [(left, right) for left, right in splits if left in known and right in known]


def test_every_split_into_two_pieces_in_order_of_score():
    pieces = ["a", "b", "ab", "aba", "ba", "abab"]
    scores = np.array([-9, -9, -1, -3, -2, -4], np.float32)
    assert merges_from_scores(pieces, scores) == [
        ("a", "b"), ("b", "a"), ("a", "ba"), ("ab", "a"), ("ab", "ab"), ("aba", "b"),
    ]  # fmt: skip


@given(st.sets(st.text("ab\x00▁é\U0001f600", max_size=6), max_size=60), st.randoms(use_true_random=False))
def test_equals_the_plain_search(pieces, chance):
    ordered = sorted(pieces)
    chance.shuffle(ordered)
    scores = np.array([chance.randint(-20, 0) for _ in ordered], np.float32)
    assert merges_from_scores(ordered, scores) == expected(ordered, scores)

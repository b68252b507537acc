"""Stop strings and the text that may be shown, with every way of cutting the same text into tokens."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.engine.answer import AnswerText


class Pieces:
    """A decoder whose token i is `pieces[i]`."""

    def __init__(self, pieces: Sequence[str], tail: str = "") -> None:
        self.pieces, self.tail = pieces, tail

    def add(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[i] for i in ids)

    def finish(self) -> str:
        return self.tail


def run(
    pieces: Sequence[str], stops: Sequence[str], *, armed_from: int = 0, **options: bool
) -> tuple[str, str | None, list[str]]:
    """The final text, the stop string that ended it, and the text as it stood after each token."""
    answer = AnswerText(Pieces(pieces), stops, **options)
    shown = []
    for i in range(len(pieces)):
        stop = answer.add(i, may_stop=i >= armed_from)
        shown.append(answer.text)
        if stop is not None:
            return answer.text, stop, shown
    answer.finish()
    return answer.text, None, shown


def plain(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The specification: at the first end of any match, the longest match that ends there."""
    for end in range(1, len(text) + 1):
        found = [s for s in stops if text[:end].endswith(s)]
        if found:
            stop = max(found, key=len)
            return text[: end - len(stop)], stop
    return text, None


def test_without_stops_text_appears_at_once() -> None:
    assert run(["Hel", "lo", "", "!"], []) == ("Hello!", None, ["Hel", "Hello", "Hello", "Hello!"])


def test_a_stop_across_tokens_is_held_back_and_cut() -> None:
    text, stop, shown = run(["One", ".\n", "\nTwo", "x"], ["\n\n"])
    assert (text, stop) == ("One.", "\n\n")
    assert shown == ["One", "One.", "One."]


def test_held_text_is_released_when_the_stop_does_not_come() -> None:
    _, _, shown = run(["a<", "|", "b", "<|"], ["<|end|>"])
    assert shown == ["a", "a", "a<|b", "a<|b"]
    assert run(["a<", "|"], ["<|end|>"])[0] == "a<|"


def test_the_stop_can_be_kept() -> None:
    assert run(["x", "STO", "Py"], ["STOP"], include_stop=True)[:2] == ("xSTOP", "STOP")


def test_overlapping_beginnings() -> None:
    assert run(list("aaab"), ["aab"])[:2] == ("a", "aab")
    assert run(list("ababac"), ["abac"])[:2] == ("ab", "abac")


def test_the_match_completed_first_wins_then_the_longest() -> None:
    assert run(["xabcd"], ["abcd", "c"])[:2] == ("xab", "c")
    assert run(["xabc"], ["c", "abc", "bc"])[:2] == ("x", "abc")


def test_stops_completed_too_early_are_text_but_one_completed_later_counts() -> None:
    assert run(["END", " more ", "END", "x"], ["END"], armed_from=1)[:2] == ("END more ", "END")
    assert run(["EN", "D"], ["END"], armed_from=1)[:2] == ("", "END")


def test_finish_adds_what_the_decoder_still_held() -> None:
    answer = AnswerText(Pieces(["ab"], tail="\ufffd"), ["bc"])
    assert answer.add(0) is None
    assert answer.text == "a"
    answer.finish()
    assert answer.text == "ab\ufffd"


@given(
    text=st.text("ab", max_size=12),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    cuts=st.sets(st.integers(1, 11)),
)
def test_any_cut_of_any_text_gives_the_specified_answer(text: str, stops: list[str], cuts: set[int]) -> None:
    places = [0, *sorted(c for c in cuts if c < len(text)), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    found, stop, shown = run(pieces, stops)
    assert (found, stop) == plain(text, stops)
    assert all(found.startswith(s) for s in shown), "text was shown and taken back"


@pytest.mark.parametrize("length", [1, 2, 1024])
def test_long_stops_cost_a_pass_over_the_text(length: int) -> None:
    text = "a" * 20_000
    assert run([text], ["a" * (length - 1) + "b"] * 3)[:2] == (text, None)


def cut(text: str, places: Sequence[int]) -> list[str]:
    """`text` in pieces that end at `places`."""
    edges = [0, *sorted(places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


@given(places=st.lists(st.integers(0, 22), max_size=6))
def test_a_match_is_found_across_every_border(places: list[int]) -> None:
    text = "well <b> said\n\nHuman: no"
    answer = AnswerText(Pieces(cut(text, places)), ["Human"], [r"\n+(?:User|Human):", "<end>"])
    found = [answer.add(i) for i in range(len(places) + 1)]
    assert [stop for stop in found if stop is not None][:1] == ["Human"]  # complete before the colon comes
    answer = AnswerText(Pieces(cut(text, places)), [], [r"\n+(?:User|Human):", "<end>"])
    seen = ""
    for i in range(len(places) + 1):
        stop = answer.add(i)
        assert answer.text.startswith(seen), "what was shown has changed"
        seen = answer.text
        if stop is not None:
            break
    assert (answer.text, stop) == ("well <b> said", r"\n+(?:User|Human):")


@pytest.mark.parametrize(("include", "text"), [(False, "a1"), (True, "a12;")])
def test_a_match_of_an_expression_is_cut_or_kept(include: bool, text: str) -> None:
    answer = AnswerText(Pieces(["a1", "2", ";b"]), [], [r"2[;,]"], include_stop=include)
    assert [answer.add(i) for i in range(3)] == [None, None, r"2[;,]"]
    assert answer.text == text


def test_only_what_may_become_a_match_is_held_back() -> None:
    answer = AnswerText(Pieces(["x", "a", "y" * 500, "y" * 1_500, "b"]), [], ["ax*b", "a.*!"])
    shown = []
    for i in range(5):
        answer.add(i)
        shown.append(len(answer.text))
    assert shown == [1, 1, 1, 2_002, 2_003]  # a match has at most 1,024 characters
    answer.finish()
    assert answer.text == "xa" + "y" * 2_000 + "b"

"""Stop expressions: the same matches as Python's `re` finds by brute force, in bounded time, whatever the pieces."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.stop_regex import MAX_EXPRESSION, MAX_MATCH, RegexMatcher, StopRegex


def first_match(expression: str, text: str) -> tuple[int, int] | None:
    """(start, end) of the match that is complete first."""
    matcher = RegexMatcher(StopRegex(expression))
    for end, char in enumerate(text, start=1):
        if length := matcher.advance(char):
            assert length <= matcher.length
            return end - length, end
    return None


def by_brute_force(expression: str, text: str) -> tuple[int, int] | None:
    compiled = re.compile(expression)
    for end in range(1, len(text) + 1):
        for start in range(end):
            if compiled.fullmatch(text, start, end):
                return start, end
    return None


ATOMS = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", r"\d", r"\n", r"\.", "[]x]", r"[\]a-b]"])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{,2}", "{2,}", "+?", "*?"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(expression=EXPRESSIONS, text=st.text("abcx1.\n]", max_size=12), flags=st.sampled_from(["", "(?s)", "(?i)"]))
def test_it_finds_what_re_finds(expression: str, text: str, flags: str) -> None:
    if re.fullmatch(flags + expression, ""):
        with pytest.raises(InvalidParameter, match="matches the empty text"):
            StopRegex(flags + expression)
    else:
        assert first_match(flags + expression, text) == by_brute_force(flags + expression, text)


@pytest.mark.parametrize(
    ("expression", "text", "found"),
    [
        (r"\n(?:User|Human):", "hello\nHuman: what", "\nHuman:"),
        (r"<(/?)end>", "a <end <end> b", "<end>"),
        ("(?i)stop", "please sToP now", "sToP"),
        (r"\$\d+\.\d{2}", "it costs $12.50, or $1.00", "$12.50"),
        ("[^[&|~]!", "[!&!~!|!x!", "x!"),
        ("(?P<word>é)+ü", "aéééü", "éééü"),
        (r"[\w.-]+@x", "to a.b-c@x", "a.b-c@x"),
        (r"\x41\u00e9\U0001F600", "Aé😀", "Aé😀"),
        ("a{2,3}b{0}c", "aac", "aac"),
        ("a{b}", "a{b}", "a{b}"),
    ],
)
def test_familiar_expressions(expression: str, text: str, found: str) -> None:
    span = first_match(expression, text)
    assert span is not None
    assert text[slice(*span)] == found


def test_a_match_longer_than_the_limit_is_none() -> None:
    assert first_match("ax*b", "a" + "x" * (MAX_MATCH - 2) + "b") == (0, MAX_MATCH)
    assert first_match("ax*b", "a" + "x" * (MAX_MATCH - 1) + "b") is None
    assert first_match("a.*b", "a" * 3 + "x" * (MAX_MATCH - 3) + "b") == (1, MAX_MATCH + 1)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("a*", "matches the empty text"),
        ("", "matches the empty text"),
        ("(a", "without its '\\)'"),
        ("a)", "without its '\\('"),
        ("*a", "nothing before it"),
        ("{2}", "nothing before it"),
        ("a{2}{3}", "nothing before it"),
        ("a**", "repetition of a repetition"),
        ("[ab", "without its ']'"),
        ("[b-a]", "bad character range"),
        ("a{3,2}", "below its start"),
        (r"\q", "escape is not known"),
        (r"(a)\1", "escape is not known"),
        ("\\", "escape is not known"),
        ("(?#x)a", "kind of group"),
        ("a{600}", "too large"),
        ("(a?){200}", "too large"),
        ("((a{10}){10}){10}", "too large"),
        ("(" * 40 + "a" + ")" * 40, "more than 32 deep"),
    ],
)
def test_a_wrong_expression_is_refused(expression: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=f"^stop_regex: .*{message}"):
        StopRegex(expression)


@pytest.mark.parametrize(
    "expression", ["^a", "a$", r"\ba", r"a\B", r"\Aa", r"a\Z", "(?=a)b", "(?!a)b", "(?<=a)b", "(?<!a)b", "(?>a)", "a++"]
)
def test_what_cannot_be_decided_in_a_growing_text_is_refused(expression: str) -> None:
    with pytest.raises(UnsupportedParameter, match=r"^stop_regex: it has"):
        StopRegex(expression)


@pytest.mark.parametrize(
    "expression", ["(a+)+!", "(a|a)*!", "(?:(?:(?:){500}){500}){500}a", "(a?){60}a{60}!", "(.*)*!"]
)
def test_nothing_takes_long(expression: str) -> None:
    started = time.process_time()
    assert len(expression) <= MAX_EXPRESSION
    assert first_match(expression, "a" * 2_000 + "b") == ((0, 1) if expression.endswith("}a") else None)
    assert time.process_time() - started < 5

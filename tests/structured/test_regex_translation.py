"""Expressions mean the same to us as to Python's `re`, where the two agree, and what cannot be enforced is refused."""

import json
import random
import re
from typing import Any

import pytest
from support.fake_model import ByteTokenizer
from support.structured import accepts, allowed, grammar, walk

from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.structured.regex import translate
from pellucid.structured.vocabulary import build_tokenizer

EXPRESSIONS = [
    "^[a-z]+$", "abc", "^a|b$", "(^a|^b)c", r"^\d{3}-\d{4}$", r"\w+@\w+\.com", "^(foo|bar)+$", r"[^\s]", r"^\S+$",
    r"^[\w.-]+$", "^.{3,5}$", r"[\d-]", r"^\u00e9+$", "^$", "^", "$", "a{2}", r'^[^"\\]*$', r"^\/x\/$", "^(a+)+$",
    "^(|a)b$", r"^(?:0[1-9]|1[0-2])$", r"^[a-zA-Z\u0400-\u04FF]+$", r"^[\]\-^]+$", r"^\D+$", r"^[\W_]{2}$",
    r"^[^\W]{2}$", r"^[^\D]{2}$", r"^a*?b??$", r"^[\b]$", r"^\x41\t[\0-\x1f]$", "^((a|b)c|d$)",
]  # fmt: skip


@pytest.fixture(scope="module")
def table() -> Any:
    return build_tokenizer(ByteTokenizer(), 260)  # type: ignore[arg-type]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_answers_match_the_expression(table: Any, expression: str) -> None:
    rng = random.Random(expression)
    whole = grammar(table, regex=expression)
    ended = 0
    for _ in range(20):
        answer, complete = walk(whole.matcher(), ByteTokenizer(), rng, max_tokens=120)
        if complete:
            ended += 1
            assert re.fullmatch(expression, answer), answer
    assert ended


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_pattern_is_searched_for(table: Any, expression: str) -> None:
    rng = random.Random(expression)
    pattern = grammar(table, json={"type": "string", "pattern": expression})
    for _ in range(8):
        answer, complete = walk(pattern.matcher(), ByteTokenizer(), rng, max_tokens=160)
        if complete:
            assert re.search(expression, json.loads(answer)), answer


@pytest.mark.parametrize(
    ("expression", "text", "expected"),
    [
        ("(?i)yes|no", "YeS", True),
        ("(?i)yes|no", "maybe", False),
        ("(?s).", "\n", True),
        (".", "\n", False),
        (".", "\u2028", False),
        (r"\d", "٣", False),  # Arabic-Indic three: a digit for Python, none for ECMA-262
        (r"\D", "٣", False),
        (r"[a&&b]+", "a&b", True),  # no intersection of classes, as in Rust
        (r"\uD83D\uDE00", "😀", True),
        (r"(?<year>\d{4})", "2024", True),
        (r"(?P<year>\d{4})", "2024", True),
        (r"\cA", "\x01", True),
        (r"\p{Lu}", "É", True),
        (r"\P{Lu}", "É", False),
        (r"\u{1F600}", "😀", True),
    ],
)
def test_details(table: Any, expression: str, text: str, expected: bool) -> None:
    assert accepts(grammar(table, regex=expression).matcher(), text) is expected


@pytest.mark.parametrize(
    ("expression", "escapes"),
    [
        ('[^"]', "bfnrtu\\\\"),
        ('[^"\\\\]', "bfnrtu"),
        (r"[\x00-\x1f]", "bfnrtu"),
        ("[a-z]", ""),
        (r"(\0|[^\0\"\\])", "bfnrtu"),
    ],
)
def test_no_class_lets_other_characters_through_as_escapes(table: Any, expression: str, escapes: str) -> None:
    """derivre 0.3.13 adds the quotation mark and the backslash to a class of all control characters."""
    matcher = grammar(table, json={"type": "string", "pattern": f"^{expression}$"}).matcher()
    matcher.accept(ord('"'))
    found = ord("\\") in allowed(matcher.mask())
    if found:
        matcher.accept(ord("\\"))
    assert set(map(chr, allowed(matcher.mask()) if found else ())) == set(escapes)


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        (r"a\b", "word boundary"), ("(?=a)b", "look-ahead"), ("(?!a)b", "look-ahead"), ("(?<=a)b", "look-behind"),
        (r"(a)\1", "back-reference"), ("x^y", "anchor"), ("(a^)*", "anchor"), ("x$y", "anchor"),
        ("[[:alpha:]]", "POSIX class"), ("[]", "empty class"), (r"\q", "escape"), (r"\07", "octal"), ("(?x)a", "flag"),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_is_named(expression: str, named: str) -> None:
    with pytest.raises(UnsupportedParameter, match=named):
        translate(expression, param="regex", search=True)


@pytest.mark.parametrize(
    "expression",
    [
        "a**", "[z-a]", "(?P=a)", "a{3,2}", "(", ")", "[a", "a|*", "a{,3}", "\\", r"\ud800", r"\p{L", "{a}", r"\x4",
        r"\u{110000}",
        "a{99999}", "(" * 100 + ")" * 100, "(((a{100}){100}){100})", "a" * 20_000, "(?<1>a)", "[a-\\d]",
    ],
)  # fmt: skip
def test_damaged_and_oversized_expressions(expression: str) -> None:
    with pytest.raises(InvalidParameter):
        translate(expression, param="regex", search=False)

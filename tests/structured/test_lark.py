"""Lark grammars: what they accept, and that what is not understood is refused with its line and column."""

import json
import random
from typing import Any

import pytest
from support.fake_model import ByteTokenizer
from support.structured import accepts, grammar, walk

from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.structured.lark_reader import read_lark
from pellucid.structured.lark_tokens import COMMON
from pellucid.structured.vocabulary import build_tokenizer

ARITHMETIC = r"""
// sums of products
?start: sum                 # the tree's shape makes no difference
sum: product (("+" | "-") product)* -> add
product: atom ("*" atom)*
!atom: NUMBER | "(" sum ")"
     | NAME
NAME: LETTER (LETTER | "_")*
LETTER: /[a-z]/
%import common.INT -> NUMBER
%import common (WS_INLINE, CNAME)
%ignore WS_INLINE
"""
PERSON = """start: "<" %json {"type": "object",
  "properties": {"age": {"type": "integer", "minimum": 1, "maximum": 9}},
  "required": ["age"], "additionalProperties": false} ">"
OTHER: "x"
"""


@pytest.fixture(scope="module")
def table() -> Any:
    return build_tokenizer(ByteTokenizer(), 260)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        (ARITHMETIC, "1 + (x_y*3)- 2", True),
        (ARITHMETIC, "1 + ", False),
        (ARITHMETIC, "X", False),
        ('start: "a"~2 "b"~1..2 "c"{2,} ["d"] ("e" | "f")+', "aabbcccef", True),
        ('start: "a"~2 "b"~1..2 "c"{2,} ["d"] ("e" | "f")+', "aabccde", True),
        ('start: "a"~2', "aaa", False),
        ('start: "x".."z" "yes"i', "yYeS", True),
        ('start: "x".."z" "yes"i', "wyes", False),
        (r'start: "\x41\u00e9\n\"\\" /\/a/i', 'Aé\n"\\/A', True),
        ('start: a\na: "("\n  a ")" |'.replace("(\"\n  a \")\"", '(" a ")"'), "(())", True),
        ('start: ("a"\n  "b"\n)', "ab", True),
        ("start: A\nA: B+ C?\nB: /[ab]/\nC: \"c\"", "abac", True),
        (PERSON, '<{"age": 3}>', True),
        (PERSON, '<{"age": 30}>', False),
        ('start: "a" # to the end\n// all of it\n', "a", True),
    ],
)  # fmt: skip
def test_the_language(table: Any, source: str, text: str, expected: bool) -> None:
    assert accepts(grammar(table, grammar=source).matcher(), text) is expected


def test_schemas_inside_are_enforced(table: Any) -> None:
    whole = grammar(table, grammar=PERSON)
    for seed in range(10):
        answer, complete = walk(whole.matcher(), ByteTokenizer(), random.Random(seed))
        assert complete
        assert 1 <= json.loads(answer[1:-1])["age"] <= 9


@pytest.mark.parametrize(("name", "text"), [
    ("ESCAPED_STRING", r'"a\"b"'), ("SIGNED_FLOAT", "-1.5e3"), ("NUMBER", "3"), ("FLOAT", "1e5"), ("CNAME", "_a1"),
    ("C_COMMENT", "/* a * b */"), ("NEWLINE", "\r\n\n"), ("SQL_COMMENT", "-- x"), ("SIGNED_INT", "+3"), ("WS", " \t\n"),
])  # fmt: skip
def test_common_terminals(table: Any, name: str, text: str) -> None:
    assert accepts(grammar(table, grammar=f"start: {name}\n%import common.{name}").matcher(), text)


def test_all_common_terminals_compile(table: Any) -> None:
    source = "start: " + " | ".join(COMMON) + "".join(f"\n%import common.{name}" for name in COMMON)
    grammar(table, grammar=source)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("//", "no rule 'start'"),
        ("start: x", "line 1, column 8: there is no rule 'x'"),
        ('start: "a"\nstart: "b"', "line 2, column 1: 'start' is there already"),
        ('start: "a', "line 1, column 8: a text or an expression without its end"),
        ("start: /a", "line 1, column 8"),
        ('start: "a"\n\n  b = "c"', "line 3, column 5: unexpected '='"),
        (r'start: "\q"', r"line 1, column 8: there is no escape \\q"),
        (r'start: "\ud800"', "no escape"),
        ('start: ("a"', r"line 1, column 12: expected \)"),
        ('start: "a")', r"found '\)'"),
        ('start: "z".."a"', "range"),
        ('start: "a"**', "repetition of a repetition"),
        ('start: "a"{3,2}', "below its start"),
        ('start: "a"~1000000', "10,000 at most"),
        ("start: A\nA: A \"x\"", "contains itself"),
        ("start: A\nA: start", "'start' is a rule"),
        ('start: "x"\n%ignore start', "'start' is a rule"),
        ('start: "x" start', "can never come to an end"),
        ("start: /(?=a)/", "line 1, column 8: the expression has look-ahead"),
        ('start: "a"\n%import common.NONE', "common has no 'NONE'"),
        ('start: %json {"not": {}}', "line 1, column 8: the keyword 'not'"),
        ("start: %json [", "expected a JSON schema"),
        ("start: A\nA: %json {}", "."),
        ("start: " + "(" * 100 + '"a"' + ")" * 100, "deep"),
        ('start: T\nT: A~100\nA: B~100\nB: "x"~100', "20,000 characters"),
    ],
)  # fmt: skip
def test_errors_name_line_and_column(table: Any, source: str, named: str) -> None:
    with pytest.raises(InvalidParameter, match=named):
        grammar(table, grammar=source)


@pytest.mark.parametrize(
    "source",
    [
        '%declare A\nstart: A', "start: /a/m", '%llguidance {"allow_initial_skip": true}\nstart: "a"',
        "start: <|im_end|>", "start: <[3]>", "start: @other",
        'start[lazy]: "a"', 'start[max_tokens=3]: "a"', 'start.2: "a"', "start: A & B", "start: ~A",
        'start: %regex {"substring_words": "a b"}', 'start: %lark {start: "a"}', "_sep{x}: x\nstart: \"a\"",
        '%import other.NAME\nstart: "a"', '%override start: "b"', '%extend start: "b"',
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(source: str) -> None:
    with pytest.raises(UnsupportedParameter, match=r"line 1, column \d+"):
        read_lark(source)

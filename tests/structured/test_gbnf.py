"""GBNF means what its plain definition says, though rules become terminals; errors name line and column."""

import itertools
import random
from typing import Any

import pytest
from support.fake_model import ByteTokenizer
from support.grammar_definition import matches, random_gbnf
from support.structured import accepts, grammar

from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.structured.gbnf import read_gbnf
from pellucid.structured.lexemes import with_terminals
from pellucid.structured.vocabulary import build_tokenizer

GRAMMARS = [
    'root ::= [ab]* "b"',
    'root ::= "(" root ")" | [ab]* "b"',
    'root ::= "a" root "b" | ""',
    'root ::= root "a" | "b"',
    'root ::= x x\nx ::= "a"* "(" x? ")" "a"*',
    'root ::= "a" | "ab" root "b" | "a" root "a"',
    "root ::= [^b] root? [^a]",
    'root ::= "a"{2,3} ("(" root ")")?',
    'root ::= ("a" | "ab") ("b" | "(" root ")")',
    'root ::= x | "(" root\nx ::= x x | "a"',
    'root ::= x* "a" y\nx ::= "a" "b"? | "(" x ")"\ny ::= "b" | y "a"',
]


@pytest.fixture(scope="module")
def table() -> Any:
    return build_tokenizer(ByteTokenizer(), 260)  # type: ignore[arg-type]


def compare(table: Any, source: str, alphabet: str, length: int) -> int:
    """Compares all texts up to that length; returns how many of them are answers."""
    rules, whole, found = read_gbnf(source), grammar(table, gbnf=source), 0
    for size in range(length + 1):
        for letters in itertools.product(alphabet, repeat=size):
            text = "".join(letters)
            expected = matches(rules, "root", text)
            assert accepts(whole.matcher(), text) is expected, (source, text)
            found += expected
    return found


@pytest.mark.parametrize("source", GRAMMARS)
def test_the_answers_are_those_of_the_definition(table: Any, source: str) -> None:
    assert compare(table, source, "ab()", 4) > 0


def test_random_grammars(table: Any, soak: bool) -> None:
    found = sum(compare(table, random_gbnf(random.Random(seed)), "ab", 5) for seed in range(1_000 if soak else 15))
    assert found > 15


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        (r'root ::= "\x41\u00e9\U0001F600\t\r\n\\\"\[\]\-"', "Aé😀\t\r\n\\\"[]-", True),
        (r'root ::= [\x41-\x43\]\-]+ [^\n]', "AB]-é", True),
        ('root ::= "é" root "è" | "éa" | "x"', "éxè", True),
        ('root ::= "é" root "è" | "éa" | "x"', "ééaè", True),
        ('root ::= "é" root "è" | "éa" | "x"', "éxé", False),
        ("root ::= .", "\n", True),
        ('root ::= "a" # comment\n  | "b"\n', "b", True),
        ("root ::=\n  (\n [0-9] # first\n | 'x\n )" .replace("'x", '"x"'), "7", True),
        ('a ::= "unused"\nroot ::= "x"{3}', "xxx", True),
        ('root ::= "x"{2,}', "xxxxx", True),
        ('root ::= "x"{0,0} "y"', "y", True),
        ('root ::= ("" | "y"?)* "x"', "yyx", True),
    ],
)  # fmt: skip
def test_the_language(table: Any, source: str, text: str, expected: bool) -> None:
    assert accepts(grammar(table, gbnf=source).matcher(), text) is expected


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("#", "no rule 'root'"),
        ('start ::= "a"', "no rule 'root'"),
        ('root ::= "a" x', "line 1, column 14: there is no rule 'x'"),
        ('root ::= "a"\nroot ::= "b"', "line 2, column 1: there is a rule 'root' already"),
        ('root ::= "a', "line 1, column 12: it ends in the middle"),
        ('root ::= "a"\n\n  x := "b"', "line 3, column 5: expected ::="),
        (r'root ::= "\q"', r"line 1, column 13: there is no escape \\q"),
        (r'root ::= "\ud800"', "no character"),
        (r'root ::= "\x4"', "2 hexadecimal"),
        ("root ::= [b-a]", "line 1, column 14: the ends of a range"),
        ("root ::= []", "empty class"),
        ('root ::= ("a"', r"line 1, column 14: expected \)"),
        ('root ::= "a")', r"line 1, column 13: a \) without"),
        ('root ::= * "a"', "nothing before it"),
        ('root ::= "a"**', "repetition of a repetition"),
        ('root ::= "a"{3,2}', "below its start"),
        ('root ::= "a"{1000000}', "10,000 at most"),
        ('root ::= "a"{x}', "expected a number"),
        ("root ::= root", "can never come to an end"),
        ('root ::= "a" | x\nx ::= "b" x', "line 2, column 1: the rule 'x' can never"),
        ('root ::= "a" ü', "line 1, column 14: unexpected 'ü'"),
        ("root ::= " + "(" * 100 + '"a"' + ")" * 100, "deep"),
    ],
)
def test_errors_name_line_and_column(source: str, named: str) -> None:
    with pytest.raises(InvalidParameter, match=named):
        read_gbnf(source)


@pytest.mark.parametrize("token", ["<think>", "<[1000]>", "!<think>"])
def test_tokens_are_refused(token: str) -> None:
    with pytest.raises(UnsupportedParameter, match="line 1, column 10: tokens"):
        read_gbnf(f"root ::= {token}")


def test_what_is_regular_becomes_one_terminal() -> None:
    """Otherwise a mask over 49,152 tokens would take many milliseconds in every string."""
    json = r"""
    root ::= value
    value ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
            | "[" ws (value ("," ws value)*)? "]" ws
            | string | [0-9]+ ws
    string ::= "\"" ([^"\\\x00-\x1f] | "\\" ["\\/bfnrt])* "\"" ws
    ws ::= [ \t\n]*
    """
    terminals = [d for d in with_terminals(read_gbnf(json.strip()), "root", "gbnf").values() if d.is_terminal]
    assert len(terminals) < 12

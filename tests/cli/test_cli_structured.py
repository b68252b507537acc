"""The flags that say what form an answer must have: where it is read from, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.command import Pellucid

from pellucid.cli.main import parse
from pellucid.cli.structured_options import structured_outputs
from pellucid.errors import InvalidParameter
from pellucid.structured_outputs import StructuredOutputs

SCHEMA = '{"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}'
GBNF = 'root ::= [ab]{3} "!"'
LARK = 'start: /[cd]{3}/ "!"'


def form(*flags: str) -> StructuredOutputs | None:
    return structured_outputs(parse(["run", "model", "prompt", *flags]))


def test_texts_and_files(tmp_path: Path) -> None:
    files = {"a.json": SCHEMA, "b.gbnf": GBNF, "c.lark": LARK, "d.txt": GBNF, "e.txt": LARK}
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    for given in (SCHEMA, str(tmp_path / "a.json")):
        assert form("--json-schema", given) == form("-j", given) == StructuredOutputs(json=SCHEMA)
    for given in (GBNF, str(tmp_path / "b.gbnf"), str(tmp_path / "d.txt")):
        assert form("--grammar", given) == StructuredOutputs(gbnf=GBNF)
    for given in (LARK, str(tmp_path / "c.lark"), str(tmp_path / "e.txt")):
        assert form("--grammar", given) == StructuredOutputs(grammar=LARK)
    assert form("--regex", "a+") == StructuredOutputs(regex="a+")
    assert form("--choice", "yes", "--choice", "no") == StructuredOutputs(choice=["yes", "no"])
    assert form() is None


def test_two_forms_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="--json-schema and --regex"):
        form("--json-schema", "{}", "--regex", "a")


def test_answers_have_the_form(pellucid: Pellucid, tiny: Path) -> None:
    flags = ("-q", "-s", "1", "-n", "60")
    assert len(json.loads(pellucid("run", tiny, "hi", *flags, "-j", SCHEMA).stdout)) == 2
    assert re.fullmatch("[ab]{3}!\n", pellucid("run", tiny, "hi", *flags, "--grammar", GBNF).stdout)
    assert re.fullmatch("[cd]{3}!\n", pellucid("run", tiny, "hi", *flags, "--grammar", LARK).stdout)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["-j", '{"not": {}}'], "'not'"),
        (["-j", "missing.json"], "not valid JSON"),
        (["--grammar", "root ::= x"], "line 1, column 10"),
        (["--regex", "a", "--ignore-eos"], "ignore_eos"),
    ],
)
def test_what_cannot_be_is_said_on_stderr(pellucid: Pellucid, tiny: Path, flags: list[str], named: str) -> None:
    done = pellucid("run", tiny, "hi", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr

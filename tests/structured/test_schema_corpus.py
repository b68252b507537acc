"""Every schema of the corpus is refused by name, or every answer to it is an instance: here with random tokens.

`make structured` does the same with SmolLM2 at temperature 1, and says how many there were of each.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from support.fake_model import ByteTokenizer
from support.structured import grammar, walk

from pellucid.errors import InvalidParameter
from pellucid.structured.vocabulary import build_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from schema_corpus import schemas
from schema_validation import problem

CORPUS = schemas()
REFUSED = {
    "objects/16": "maxProperties", "one_of/5": "'oneOf'", "one_of/6": "'oneOf'", "all_of/8": "Unsatisfiable",
    "references/8": "'$ref'", "references/9": "$ref", "recursion/8": "required", "recursion/9": "$ref",
    "drafts/8": "'$schema'", "refused/0": "'not'", "refused/1": "'not'", "refused/2": "'if'",
    "refused/3": "'uniqueItems'", "refused/4": "'contains'", "refused/5": "'contains'", "refused/6": "'propertyNames'",
    "refused/7": "'dependentRequired'", "refused/8": "'dependentSchemas'", "refused/9": "'dependencies'",
    "refused/10": "'unevaluatedProperties'", "refused/11": "'unevaluatedItems'", "refused/12": "'contentEncoding'",
    "refused/13": "'contentMediaType'", "refused/14": "'$dynamicRef'", "refused/15": "'nullable'",
    "refused/16": "'format: regex'", "refused/17": "'format: iri'", "refused/18": "pattern: the expression has look",
    "refused/19": "pattern: the expression has a back-ref", "refused/20": "pattern: the expression has a word boundary",
    "refused/21": "minimum", "refused/22": "maximum", "refused/23": "'minProperties'", "refused/24": "type",
    "refused/25": "minLength", "refused/26": "'minlength'", "hand-written/unique tags": "'uniqueItems'",
    "hand-written/conditional shipping": "'if'",
}  # fmt: skip
"""Name → the keyword that its refusal names. All others are enforced."""


@pytest.fixture(scope="module")
def table() -> Any:
    return build_tokenizer(ByteTokenizer(), 260)  # type: ignore[arg-type]


def test_the_corpus_is_large_and_each_schema_is_there_once() -> None:
    assert len({json.dumps(schema, sort_keys=True) for schema in CORPUS.values()}) == len(CORPUS) >= 300


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_enforced_is_refused_by_name(table: Any, name: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        grammar(table, json=json.dumps(CORPUS[name]))
    assert REFUSED[name] in str(caught.value)


def test_answers_are_instances(table: Any) -> None:
    tokenizer, ended = ByteTokenizer(), 0
    enforced = [name for name in CORPUS if name not in REFUSED]
    for name in enforced:
        whole = grammar(table, json=json.dumps(CORPUS[name]))
        answer, complete = walk(whole.matcher(), tokenizer, random.Random(name), max_tokens=600)
        ended += complete
        if complete:
            assert problem(CORPUS[name], answer) is None, (name, answer)
    assert ended >= 0.95 * len(enforced)


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        ({"type": "integer"}, "1.5"),
        ({"multipleOf": 0.1}, "0.35"),
        ({"format": "time"}, '"12:00:00"'),
        ({"format": "date"}, '"2023-02-29"'),
        ({"format": "uri"}, '"no scheme"'),
        ({"format": "hostname"}, '"-a"'),
        ({"format": "duration"}, '"P"'),
        ({"type": "object"}, '{"a": 1'),
        ({"items": [{"type": "null"}]}, "[1]"),
    ],
)
def test_the_judge_finds_what_is_wrong(schema: Any, answer: str) -> None:
    assert problem(schema, answer) is not None

"""Forms that would cost too much, by name; `python hostile_grammars.py MODEL` compiles each and says what it cost."""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.structured import allowed

from pellucid.errors import InvalidRequest
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.structured.grammar import lark_of
from pellucid.structured.matcher import Grammar
from pellucid.structured.vocabulary import build_tokenizer, token_finder
from pellucid.structured_outputs import StructuredOutputs
from pellucid.text.tokenizer import Tokenizer

NUM_MASKS = 12


def schemas() -> dict[str, Any]:
    deep: Any = {}
    for _ in range(300):
        deep = {"items": deep}
    return {
        "10,000 deep": '{"items":' * 10_000 + "{}" + "}" * 10_000,
        "300 deep": deep,
        "refers to itself": {"$ref": "#"},
        "contains itself": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        "10,000 in an enum": {"enum": list(range(10_000))},
        "4,096 long ones in an enum": {"enum": [f"{i:04d}" + "x" * 50 for i in range(4_096)]},
        "2,000 properties": {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(2_000)}},
        "2,000 required": {"type": "object", "required": [f"p{i}" for i in range(2_000)]},
        "unions of unions": {
            "$ref": "#/$defs/d0",
            "$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 4} for i in range(20)} | {"d20": {}},
        },
        "all of unions": {"allOf": [{"anyOf": [{"minimum": i}, {"maxLength": i + 50}]} for i in range(18)]},
        "all of 40 unions": {
            "allOf": [{"anyOf": [{"properties": {f"a{i}": {}}}, {"properties": {f"b{i}": {}}}]} for i in range(40)]
        },
        "all of patterns": {"type": "string", "allOf": [{"pattern": f"a{{{i}}}"} for i in range(1, 40)]},
        "exactly one of 300": {"oneOf": [{"const": i} for i in range(300)]},
        "one of 60 objects": {
            "oneOf": [{"properties": {"k": {"const": i}}, "required": ["k"], "type": "object"} for i in range(60)]
        },
        "2,000 items": {"type": "array", "items": {"type": "object"}, "minItems": 2_000, "maxItems": 2_000},
        "items of items": {"type": "array", "maxItems": 2_000, "items": {"type": "array", "maxItems": 2_000}},
        "a string of 20,000": {"type": "string", "minLength": 19_999, "maxLength": 20_000},
        "a pattern of 20,000": {"type": "string", "pattern": "^(ab?){9000}$"},
        "an exponential pattern": {"type": "string", "pattern": "^(a|b)*a(a|b){200}$"},
        "a pattern searched for": {"type": "string", "pattern": "a.{500}b", "maxLength": 5_000},
        "multiples of much": {"allOf": [{"multipleOf": 99_991}, {"multipleOf": 31}, {"multipleOf": 0.001}]},
        "1,000 references": {"$defs": {"d": {}}, "prefixItems": [{"$ref": "#/$defs/d"}] * 1_000},
        "references into each other": {
            "$defs": {f"d{i}": {"prefixItems": [{"$ref": f"#/$defs/d{j}"} for j in range(60)]} for i in range(60)},
            "$ref": "#/$defs/d0",
        },
        "names by pattern": {"patternProperties": {f"^{i}.{{400}}": {} for i in range(40)}},
        "a long title": {"title": "x" * 200_000},
        "two sizes at once": {"type": "string", "pattern": "^(.{100}){100}$", "minLength": 5_000, "maxLength": 9_000},
    }


EXPRESSIONS = {
    "a million": "a{1000000}", "counts of counts": "((a{100}){100}){100}", "just below": "(a{100}){199}",
    "exponential": "(a|b)*a(a|b){300}", "nested stars": "(((a*)*)*)*b", "plus of plus": "(a+)+$", "deep": "(" * 9_000,
    "two gaps": ".{4000}x.{4000}", "words": "|".join(f"word{i}" for i in range(1_500)),
    "any letters": r"(\w{1,50} ){1,100}", "classes": r"[^\W\d_]{3000}", "long": "a" * 16_000,
}  # fmt: skip

CHOICES = {
    "4,096": [f"choice number {i}" for i in range(4_096)],
    "long ones": [f"{i}" + "x" * 8_000 for i in range(30)],
}

GBNF = {
    "deep": "root ::= " + "(" * 10_000 + '"a"',
    "ambiguous": 'root ::= root root | "a" | ""',
    "both ends": 'root ::= "a" root | root "a" | root root root | "a"',
    "a chain": "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1}" for i in range(1_900)) + '\nr1900 ::= "a"',
    "a chain that recurs": "root ::= r0\n" + "\n".join(f'r{i} ::= "a" r{i + 1}' for i in range(1_900))
    + '\nr1900 ::= "b" root | "c"',
    "doubling": "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(60)) + '\nr60 ::= "a"',
    "doubling unions": "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1} | r{i + 1} root" for i in range(60))
    + '\nr60 ::= "a"',
    "counts of counts": 'root ::= ((("(" root ")" | "x"){100}){100}){100}',
    "many counts": 'root ::= "(" root ")" | ' + " ".join('("x" | "y" root){9000}' for _ in range(50)),
    "many texts": "root ::= " + " | ".join(f'"text {i}"' for i in range(1_800)),
    "many texts around it": "root ::= " + " | ".join(f'"text {i}" root' for i in range(1_500)) + ' | "."',
    "exponential": 'root ::= "(" root ")" | ("a" | "b")* "a" ("a" | "b"){300}',
    "stars": "root ::= " + " ".join('("a"* root?)*' for _ in range(30)),
    "3,000 rules": "\n".join(f'r{i} ::= "a"' for i in range(3_000)) + '\nroot ::= r0',
    "empty in many ways": "root ::= " + "(" * 15 + '("" | "a"? | root)*' + ")*" * 15,
}  # fmt: skip

LARK = {
    "deep": "start: " + "(" * 10_000 + '"a"',
    "doubling": "start: T0\n" + "\n".join(f"T{i}: T{i + 1} T{i + 1}" for i in range(60)) + '\nT60: "a"',
    "a chain of terminals": "start: T0\n" + "\n".join(f"T{i}: T{i + 1}" for i in range(1_900)) + '\nT1900: "a"',
    "ignoring much": 'start: ("a" | /.*/ | start "b")*\n%ignore /.*/\n%ignore /(a|b)*/',
    "counts of counts": 'start: ((A ~ 10000) ~ 10000) ~ 10000\nA: "a" ~ 10000',
    "schemas": "start: " + " ".join('%json {"type": "object"}' for _ in range(2_000)),
    "300 schemas at once": "start: "
    + " | ".join(f'%json {{"properties": {{"p{i}": {{}}}}, "type": "object"}}' for i in range(300)),
    "expressions": "start: " + " | ".join(f"/a{{9000}}{i}/" for i in range(100)),
    "optional": "start: " + " ".join('["a"]' for _ in range(9_000)),
}

TAGS = {
    "1,000 tags": {
        "type": "triggered_tags",
        "triggers": ["<"],
        "tags": [
            {"begin": f"<f{i}>", "content": {"type": "json_schema", "json_schema": {"type": "object"}}, "end": ">"}
            for i in range(1_000)
        ],
    },
    "200 triggers": {
        "type": "triggered_tags",
        "triggers": [f"<{i:03d}" for i in range(200)],
        "tags": [{"begin": f"<{i:03d}", "content": {"type": "regex", "pattern": "a"}, "end": ""} for i in range(200)],
    },
}


def forms() -> dict[str, dict[str, Any]]:
    """Name → what StructuredOutputs is given."""
    found: dict[str, dict[str, Any]] = {f"json: {name}": {"json": value} for name, value in schemas().items()}
    for kind, values in (("regex", EXPRESSIONS), ("choice", CHOICES), ("gbnf", GBNF), ("grammar", LARK)):
        found |= {f"{kind}: {name}": {kind: value} for name, value in values.items()}
    for name, value in TAGS.items():
        found[f"tag: {name}"] = {"structural_tag": {"type": "structural_tag", "format": value}}
    return found


def cost(given: dict[str, Any], tokenizer: Tokenizer, table: Any, rng: random.Random) -> dict[str, Any]:
    """What came of it, CPU seconds of compiling and of the slowest mask, and MiB that the process has grown."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, slowest, outcome = time.thread_time(), 0.0, "compiled"
    compiled = None
    try:
        spec = StructuredOutputs(**given)
        compiled = Grammar(table, lark_of(spec, token_finder(tokenizer, tokenizer.vocab_size)), param=spec.kind)
    except InvalidRequest as error:
        outcome = f"refused: {error}"
    seconds = time.thread_time() - start
    if compiled is not None:
        matcher = compiled.matcher()
        try:
            for _ in range(NUM_MASKS):
                start = time.thread_time()
                tokens = allowed(matcher.mask())
                slowest = max(slowest, time.thread_time() - start)
                token = int(rng.choice(tokens))
                matcher.accept(token)
                if token in tokenizer.eos_token_ids or matcher.is_finished:
                    break
        except InvalidRequest as error:
            outcome = f"failed: {error}"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"outcome": outcome[:200], "seconds": seconds, "mask_seconds": slowest, "mib": grown / 1024}


def main() -> None:
    tokenizer = Tokenizer.from_checkpoint(open_checkpoint(Path(sys.argv[1])))
    table = build_tokenizer(tokenizer, tokenizer.vocab_size)
    for name, given in forms().items():
        print(json.dumps({"name": name, **cost(given, tokenizer, table, random.Random(name))}), flush=True)


if __name__ == "__main__":
    main()

"""StructuredOutputs to the Lark grammar that llguidance compiles, everything in it checked."""

from __future__ import annotations

from pellucid.errors import InvalidParameter
from pellucid.structured import gbnf, lark_reader
from pellucid.structured.gbnf import read_gbnf
from pellucid.structured.json_schema import prepare_schema
from pellucid.structured.json_text import parse_json
from pellucid.structured.lark_reader import read_lark
from pellucid.structured.lark_writer import write
from pellucid.structured.lexemes import with_terminals
from pellucid.structured.regex import literal, translate
from pellucid.structured.structural_tag import FindToken, structural_tag_rules
from pellucid.structured_outputs import StructuredOutputs

_HEAD = '%llguidance {"no_forcing": true}\n'
"""Text that the grammar leaves no choice about is not forced on the model as tokens: it spells it as it would."""


def lark_of(spec: StructuredOutputs, find_token: FindToken) -> str:
    """Raises InvalidParameter, and UnsupportedParameter for what cannot be enforced; both say where."""
    if spec.kind in ("json", "json_object"):
        schema = {"type": "object"} if spec.json is None else parse_json(str(spec.json), param="json")
        return f"{_HEAD}start: %json {prepare_schema(schema, compact=spec.disable_any_whitespace)}\n"
    if spec.structural_tag is not None:
        return _HEAD + structural_tag_rules(str(spec.structural_tag), find_token, compact=spec.disable_any_whitespace)
    if spec.regex is not None:
        return f"{_HEAD}start: ANSWER\nANSWER: /{translate(spec.regex, param='regex', search=False)}/\n"
    if spec.choice is not None:
        return f"{_HEAD}start: ANSWER\nANSWER: " + "\n | ".join(f"/{literal(text)}/" for text in spec.choice) + "\n"
    try:
        if spec.grammar is not None:
            definitions, ignored = read_lark(spec.grammar)
            return _HEAD + write(definitions, lark_reader.START, ignored)
        rules = read_gbnf(str(spec.gbnf))
        return _HEAD + write(with_terminals(rules, gbnf.START, gbnf.PARAM), gbnf.START)
    except RecursionError:
        raise InvalidParameter(spec.kind, "its rules lead too deep into each other") from None

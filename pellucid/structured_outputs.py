"""StructuredOutputs: the form an answer must have. Checked here for type and size; what it says, by `structured/`."""

from __future__ import annotations

import json as json_text
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

from pellucid.errors import InvalidParameter
from pellucid.fields import boolean, refuse_unknown, show

MAX_NBYTES = 256 << 10
"""Longest schema, expression, grammar or list of choices, in UTF-8."""
MAX_CHOICES = 4_096

KINDS = ("json", "json_object", "regex", "choice", "grammar", "gbnf", "structural_tag")
PLANNED = frozenset({
    "whitespace_pattern", "disable_fallback", "disable_additional_properties", "backend",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StructuredOutputs:
    """What the answer must be; exactly one of the first seven. An answer cut short by max_tokens is a beginning of it.

    json: a JSON schema, as a mapping or as JSON text; kept as text. A keyword that cannot be enforced is refused.
    json_object: any JSON object.
    regex: a regular expression that the whole answer matches (Rust's syntax; no look-around, no back-references).
    choice: texts, one of which is the answer.
    grammar: a Lark grammar with a rule `start`.
    gbnf: a grammar in llama.cpp's GBNF with a rule `root`.
    structural_tag: text and JSON in an order, in the format of XGrammar, as a mapping or as JSON text; kept as text.
    disable_any_whitespace: with json, json_object and structural_tag, no white space between the parts of the JSON
        text. Without it there may be one space, or a line break and indentation.

    Raises InvalidParameter, and UnsupportedParameter for a known name that is not implemented; both name the field.
    """

    json: str | Mapping[str, Any] | None = None
    json_object: bool = False
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    gbnf: str | None = None
    structural_tag: str | Mapping[str, Any] | None = None
    disable_any_whitespace: bool = False

    _asked_by: ClassVar[str | None] = None  # no field: it is no part of the form

    def __new__(cls, **given: object) -> Self:
        # Names are checked before the generated __init__ sees them, so that an unsupported field is refused by name.
        refuse_unknown(given, (f.name for f in fields(cls)), PLANNED, "structured output")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        boolean("json_object", self.json_object)
        boolean("disable_any_whitespace", self.disable_any_whitespace)
        given = self._given()
        if len(given) != 1:
            raise InvalidParameter(
                "structured_outputs",
                f"expected exactly one of {', '.join(KINDS)}; got {' and '.join(given) or 'none of them'}",
            )
        if self.disable_any_whitespace and given[0] not in ("json", "json_object", "structural_tag"):
            raise InvalidParameter("disable_any_whitespace", f"goes with JSON, not with {given[0]}")
        if given[0] in ("json", "structural_tag"):
            object.__setattr__(self, given[0], _json_text(given[0], getattr(self, given[0])))
        elif self.choice is not None:
            object.__setattr__(self, "choice", _choices(self.choice))
        elif not self.json_object:
            _text(given[0], getattr(self, given[0]))

    @property
    def kind(self) -> str:
        """Which one was given: the name of that field."""
        return self._given()[0]

    @property
    def param(self) -> str:
        """What errors about it are named after."""
        return self._asked_by or self.kind

    def asked_by(self, name: str) -> Self:
        """The same form, asked for by the field `name`; errors are named after that."""
        form = replace(self)
        object.__setattr__(form, "_asked_by", name)
        return form

    def _given(self) -> list[str]:
        return [name for name in KINDS if getattr(self, name) is not (False if name == "json_object" else None)]


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidParameter(name, f"expected text, got {show(value)}")
    try:
        nbytes = len(value[: MAX_NBYTES + 1].encode())
    except UnicodeEncodeError as error:
        raise InvalidParameter(
            name, f"holds half a character (a lone surrogate) at character {error.start}; expected Unicode text"
        ) from None
    if not value or nbytes > MAX_NBYTES:
        raise InvalidParameter(name, f"expected 1 to {MAX_NBYTES:,} bytes, got {len(value):,} characters")
    return value


def _json_text(name: str, value: object) -> str:
    if not isinstance(value, Mapping):
        return _text(name, value)
    pieces, length = [], 0
    try:
        for piece in json_text.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain).iterencode(value):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_NBYTES:  # shared parts make a small object into an endless text
                raise InvalidParameter(name, f"it has more than {MAX_NBYTES:,} bytes")
    except (TypeError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidParameter(name, f"it cannot be written as JSON: {reason}") from None
    return _text(name, "".join(pieces))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{show(value)} is not a JSON value")


def _choices(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not 1 <= len(value) <= MAX_CHOICES:
        raise InvalidParameter("choice", f"expected a list of 1 to {MAX_CHOICES:,} texts, got {show(value)}")
    choices = tuple(_text("choice", text) for text in value)
    if sum(map(len, choices)) > MAX_NBYTES:
        raise InvalidParameter("choice", f"the texts have more than {MAX_NBYTES:,} bytes together")
    return choices

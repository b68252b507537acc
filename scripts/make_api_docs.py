"""Writes docs/api.md from the OpenAPI document of the server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
sys.path.insert(0, str(ROOT))

from fastapi import FastAPI  # noqa: E402

from pellucid.api.answer_schemas import RECEIPT  # noqa: E402
from pellucid.api.sampling_schema import SAMPLING  # noqa: E402
from pellucid.server.app import ROUTERS  # noqa: E402
from pellucid.server.error_codes import CODES  # noqa: E402
from pellucid.server.openapi import document  # noqa: E402
from pellucid.server.settings import ServerSettings  # noqa: E402

HEAD = """\
# The HTTP API

<!-- Made by scripts/make_api_docs.py from the server's /openapi.json; edit pellucid/api and run `make docs`. -->

Every path, with every field of its requests and answers. The same is in `/openapi.json` (for programs) and `/docs` of a
running server, made from the tables that requests are checked with. How to use it: [serving](serving.md).

"""
CONVENTIONS = """
**Requests.** Bodies are JSON objects, sent as `application/json`. A field that is null counts as not given. A field
that is not in these tables is a 400 that names it; with `--no-strict` it is left out and named in the header
`x-pellucid-ignored`. A key comes as `Authorization: Bearer KEY` or `x-api-key: KEY`. `[1, 5]` is a range with its ends,
`(0, 1]` one without the lower. What is required inside an object is so where the object is given.

**Answers.** Every answer has the header `x-request-id`. A path that can stream answers with `text/event-stream` where
the body says `"stream": true`: events of `data:` and JSON, as listed under it. `a.b[].c` is a field of the objects in
the list `b` of the object `a`; where a value can be objects of several kinds, the fields of all are listed. What is
described with "with `…`" is there where the request says so.
"""


def render() -> str:
    app = FastAPI(openapi_url=None)
    for router in ROUTERS:
        app.include_router(router)
    found = document(app, ServerSettings())
    operations = [(path, method, o) for path, by_method in found["paths"].items() for method, o in by_method.items()]
    parts = [HEAD, "| | |\n|---|---|\n"]
    for path, method, operation in operations:
        title = f"{method.upper()} {path}"
        parts.append(f"| [`{title}`](#{_anchor(title)}) | {operation['summary']} |\n")
    parts += [CONVENTIONS, *(_operation(*operation) for operation in operations), _sampling(), _receipt()]
    parts += [_errors(found), _limits(found["info"]["x-limits"])]
    return "".join(parts)


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [f"\n## {method.upper()} {path}\n\n{operation['summary']}."]
    if operation["security"] == [{}]:
        parts.append(" Needs no key.")
    query = {}
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "query":
            query[parameter["name"]] = parameter["schema"]
        else:
            parts.append(f" `{parameter['name']}` is {parameter['description']}.")
    parts.append("\n")
    if query:
        parts.append(f"\n**Query**\n{_table({'properties': query})}")
    if "requestBody" in operation:
        parts.append(_body(operation["requestBody"]["content"]["application/json"]["schema"]))
    for media_type, content in operation["responses"]["200"]["content"].items():
        if media_type == "text/event-stream":
            parts.append("\n**Events**\n\n| event | |\n|---|---|\n")
            parts += [f"| {name} | {about} |\n" for name, about in content["x-events"].items()]
        elif media_type != "application/json":
            parts.append(f"\n**Answer**: `{media_type}`\n")
        elif "properties" not in content["schema"]:
            parts.append("\n**Answer**: an OpenAPI 3.1 document\n")
        else:
            parts.append(f"\n**Answer**\n{_answer_table(content['schema'])}")
    return "".join(parts)


def _body(schema: dict[str, Any]) -> str:
    shared = [name for name, field in schema["properties"].items() if _said(_bare(field)) == _said(SAMPLING.get(name))]
    own = {name: field for name, field in schema["properties"].items() if name not in shared}
    parts = [_table({**schema, "properties": own})]
    if shared:
        parts.append("\nAnd [sampling parameters](#sampling-parameters)")
        missing = [name for name in SAMPLING if name not in schema["properties"]]
        others = f", except {', '.join(f'`{name}`' for name in missing)}" if missing else ""
        parts.append(f"{others}.\n")
    return "".join(parts)


def _table(schema: dict[str, Any]) -> str:
    rows = (
        f"| `{name}` | {_type(field)} | {_default(field)} | {about} |\n" for name, field, about in _rows("", schema)
    )
    return "\n| field | type | default | |\n|---|---|---|---|\n" + "".join(rows)


def _sampling() -> str:
    head = "\n## Sampling parameters\n\nWhat each does, with formula and source: [sampling](sampling.md).\n"
    return head + _table({"properties": SAMPLING})


def _receipt() -> str:
    head = '\n## The receipt\n\nWhat answers carry where the request says `"receipt": true`.\n'
    return head + _answer_table(RECEIPT)


def _errors(found: dict[str, Any]) -> str:
    parts = [
        "\n## Errors\n\nEvery error has this shape. Below `/v1/messages` the fields of Anthropic's are beside it.\n"
    ]
    for title, name in (("", "Error"), ("\nBelow `/v1/messages`:\n", "AnthropicError")):
        parts.append(f"{title}\n| field | type | |\n|---|---|---|\n")
        for field, schema, about in _rows("", found["components"]["schemas"][name], of_answer=True):
            shown = "one of the codes below" if field == "error.code" else _type(schema)
            parts.append(f"| `{field}` | {shown} | {about} |\n")
    parts.append("\n| status | `code` | when |\n|---|---|---|\n")
    parts += [f"| {status} | `{code}` | {about} |\n" for code, (status, about) in CODES.items()]
    return "".join(parts)


def _limits(limits: dict[str, float]) -> str:
    head = (
        "\n## Limits\n\nSizes are bytes, times seconds; those of a server are in its `/openapi.json` as `x-limits`.\n"
    )
    rows = "".join(f"| `{name}` | {value:,.10g} |\n" for name, value in limits.items())
    return f"{head}\n| limit | default |\n|---|---|\n{rows}"


def _rows(prefix: str, schema: dict[str, Any], *, of_answer: bool = False) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(path of a field, its schema, what it is), and so for the fields inside it."""
    for name, given in _properties(schema).items():
        field, path = _bare(given), f"{prefix}{name}"
        always = name in _required(schema)
        note = "" if always == of_answer else " **required**" if always else ""
        about = field.get("description", "")
        yield path, field, f"{about}{note}".replace("|", "\\|").strip()
        if path == "receipt":
            continue
        inside, brackets = field, ""
        while True:
            yield from _rows(f"{path}{brackets}.", inside, of_answer=of_answer)
            items = [s["items"] for s in (inside, *inside.get("anyOf", ())) if "items" in s]
            if not items:
                break
            inside, brackets = {"anyOf": items}, f"{brackets}[]"


def _answer_table(schema: dict[str, Any]) -> str:
    rows = _rows("", schema, of_answer=True)
    return "\n| field | type | |\n|---|---|---|\n" + "".join(
        f"| `{name}` | {'[receipt](#the-receipt)' if name == 'receipt' else _type(field)} | {about} |\n"
        for name, field, about in rows
    )


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    """Of all kinds of object that it can be; where they share a name, what any of them says."""
    merged: dict[str, Any] = dict(schema.get("properties", {}))
    for kind in schema.get("anyOf", ()):
        for name, field in _properties(kind).items():
            before = merged.get(name)
            if before is None:
                merged[name] = field
            elif before != field and (values := [*_values(before), *_values(field)]):
                about = before.get("description", field.get("description", ""))
                merged[name] = {"enum": list(dict.fromkeys(values)), "description": about}
    return merged


def _required(schema: dict[str, Any]) -> set[str]:
    """Those that every kind of object must have."""
    kinds = [s for s in (schema, *schema.get("anyOf", ())) if "properties" in s]
    return set.intersection(*(set(s.get("required", ())) for s in kinds)) if kinds else set()


def _values(schema: dict[str, Any]) -> list[Any]:
    return [schema["const"]] if "const" in schema else schema.get("enum", [])


def _said(schema: dict[str, Any] | None) -> Any:
    return schema and (schema.get("description"), schema.get("default"))


def _bare(schema: dict[str, Any]) -> dict[str, Any]:
    """Without "or null", which every field of a body may be."""
    kinds = schema.get("anyOf", ())
    return kinds[0] if len(kinds) == 2 and kinds[1] == {"type": "null"} and "description" not in schema else schema


def _default(schema: dict[str, Any]) -> str:
    if "default" not in schema:
        return ""
    text = json.dumps(schema["default"], ensure_ascii=False)
    return f"`{text}`" if len(text) <= 60 else "all, in the order of [sampling](sampling.md)"


def _type(schema: dict[str, Any]) -> str:
    if values := _values(schema):
        return (
            " or ".join(f"`{json.dumps(value, ensure_ascii=False)}`" for value in values)
            if len(values) <= 8
            else "text"
        )
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(kind) for kind in schema["anyOf"]))
    kind = schema.get("type", "anything")
    if isinstance(kind, list):
        return " or ".join(_type({**schema, "type": each}) for each in kind)
    if kind == "array":
        item = _type(schema["items"]) if schema["items"] else "anything"
        return f"list of {f'({item})' if ' ' in item else item}{_length(schema, 'minItems', 'maxItems', 'items')}"
    if kind == "string":
        return f"text{_length(schema, 'minLength', 'maxLength', 'chars')}"
    if kind in ("integer", "number"):
        return kind + _range(schema)
    return {"object": "object"}.get(kind, kind)


def _length(schema: dict[str, Any], least: str, most: str, unit: str) -> str:
    low, high = schema.get(least), schema.get(most)
    if low is None and high is None:
        return ""
    return f" ({low or 0:,}–{high:,} {unit})" if high is not None else f" (≥ {low} {unit})"


def _range(schema: dict[str, Any]) -> str:
    if "maximum" not in schema:
        return ""
    low, left = (schema["minimum"], "[") if "minimum" in schema else (schema["exclusiveMinimum"], "(")
    return f" {left}{_number(low)}, {_number(schema['maximum'])}]"


def _number(value: float) -> str:
    for power in (31, 32, 63, 64):
        if value == 2**power - 1:
            return f"2^{power} - 1"
    return f"{value:g}" if abs(value) < 1e6 else f"{value:,}"


def _anchor(title: str) -> str:
    """As GitHub makes it."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in "-_ ")
    return kept.replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")

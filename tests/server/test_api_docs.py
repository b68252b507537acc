"""docs/api.md and /openapi.json say everything: fields are described, codes are listed, answers are as described."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.http_client import HELLO, Http
from support.scripted_client import ScriptedClient

from pellucid import errors
from pellucid.server.error_codes import CODES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def http() -> Iterator[Http]:
    with Http(ScriptedClient()) as client:
        yield client


def test_the_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("make_api_docs", ROOT / "scripts" / "make_api_docs.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    assert script.render() == page, "docs/api.md is out of date; run `make docs`"


def test_every_field_is_described(http: Http) -> None:
    for path, operations in http.get("/openapi.json").json()["paths"].items():
        for operation in operations.values():
            contents = [operation["responses"]["200"]["content"]]
            if "requestBody" in operation:
                contents.append(operation["requestBody"]["content"])
            for content in contents:
                fields = dict[str, bool]()
                _described(path, content.get("application/json", {}).get("schema", {}), fields)
                assert [name for name, described in fields.items() if not described] == []


def _described(place: str, schema: dict[str, Any], fields: dict[str, bool]) -> None:
    """Which fields say what they are; of those that several kinds of object have, one must."""
    for name, field in schema.get("properties", {}).items():
        here = f"{place}.{name}"
        kinds = [field, *field.get("anyOf", ())]
        fields[here] = fields.get(here, False) or any(kind.get("description") for kind in kinds)
        _described(here, field, fields)
    for inside in (schema.get("items"), *schema.get("anyOf", ())):
        if isinstance(inside, dict):
            _described(place, inside, fields)


def test_every_code_is_listed_with_its_status() -> None:
    found = {
        error.code: error.http_status
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.PellucidError)
    }
    for path in (ROOT / "pellucid" / "server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
                "HttpError",
                "_refuse",
            ):
                status, code = node.args[:2]
                if isinstance(status, ast.Constant) and isinstance(code, ast.Constant):
                    found[code.value] = status.value
    assert {code: status for code, (status, _) in CODES.items()} == found


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HELLO, "logprobs": True, "top_logprobs": 2, "n": 2}),
        ("/v1/completions", {"prompt": ["a", "b"], "logprobs": 2}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 4}),
    ],
)
def test_answers_are_as_described(http: Http, path: str, body: dict[str, Any]) -> None:
    answer = http.post(path, json={**body, "receipt": True}).json()
    content = http.get("/openapi.json").json()["paths"][path]["post"]["responses"]["200"]["content"]
    jsonschema.validate(answer, content["application/json"]["schema"])
    assert "receipt" in answer
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**answer, "surprise": 1}, content["application/json"]["schema"])
    stream = http.post(path, json={**body, "stream": True}).text
    told = " ".join(content["text/event-stream"]["x-events"])
    for line in stream.splitlines():
        if line.startswith("event: "):
            assert f"`{line.removeprefix('event: ')}`" in told

"""Every route × method of the app, whatever routes it has, in every situation of who asks: as docs/serving.md says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from support.http_client import Http, error_of
from support.scripted_client import ScriptedClient

from pellucid.server.boundary import OPEN_PATHS

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
PAGE = "https://page.example.org"
KEY, ADMIN = {"x-api-key": "alice-secret"}, {"authorization": "Bearer admin-secret"}
KEYS = '[[key]]\nname = "alice"\nkey = "alice-secret"\n[[key]]\nname = "root"\nkey = "admin-secret"\nadmin = true\n'

REFUSED: dict[str, tuple[dict[str, str], int, str]] = {
    "no key": ({}, 401, "invalid_api_key"),
    "a wrong key": ({"x-api-key": "wrong-secret"}, 401, "invalid_api_key"),
    "an empty key": ({"authorization": "Bearer "}, 401, "invalid_api_key"),
    "a foreign Origin": ({**ADMIN, "origin": "https://evil.example.org"}, 403, "origin_not_allowed"),
    "a foreign Origin without a key": ({"origin": "null"}, 403, "origin_not_allowed"),
    "a foreign Host": ({**ADMIN, "host": "evil.example.org"}, 421, "misdirected_request"),
    "a foreign Host without a key": ({"host": "evil.example.org:8000"}, 421, "misdirected_request"),
    "a foreign Host of a page that may call": ({"host": "evil.org", "origin": PAGE}, 421, "misdirected_request"),
}  # fmt: skip


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    path: Path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(KEYS)
    with Http(ScriptedClient(), keys_file=path, cors_origins=(PAGE,)) as http:
        yield http


@pytest.fixture(scope="module")
def http() -> Iterator[Http]:
    with Http(ScriptedClient()) as client:
        yield client


def routes(http: Http) -> list[APIRoute]:
    """All there are: whatever else the app had would not be tested, so it may not have it."""
    assert isinstance(http.app, FastAPI)
    found = []
    for route in _flat(http.app.routes):
        assert isinstance(route, APIRoute), route
        found.append(route)
    assert len(found) >= 20
    return found


def _flat(routes: Iterable[Any]) -> Iterator[Any]:
    """Some versions of FastAPI keep the routers that were included, others their routes."""
    for route in routes:
        router = getattr(route, "original_router", None)
        if router is None:
            yield route
        else:
            yield from _flat(router.routes)


def every(http: Http) -> Iterator[tuple[APIRoute, str, str]]:
    """(route, path, method)"""
    for route in routes(http):
        path = route.path.replace("{model:path}", "m").replace("{response_id}", "resp_x")
        for method in METHODS:
            yield route, path, method


def ask(http: Http, method: str, path: str, headers: dict[str, str]) -> Any:
    """With a body that no route takes."""
    body = b"{}" if method in ("POST", "PUT", "PATCH") else None
    return http.request(method, path, content=body, headers={"content-type": "application/json", **headers})


@pytest.mark.parametrize("situation", REFUSED)
def test_who_may_not_call_is_told_so(guarded: Http, situation: str) -> None:
    headers, status, code = REFUSED[situation]
    for _, path, method in every(guarded):
        answer = ask(guarded, method, path, headers)
        if status == 401 and path in OPEN_PATHS:
            assert answer.status_code in (200, 405), (method, path)
            continue
        assert answer.status_code == status, (method, path)
        assert ("www-authenticate" in answer.headers) == (status == 401)
        assert "access-control-allow-origin" not in answer.headers or headers.get("origin") == PAGE
        if method != "HEAD":
            assert error_of(answer)["code"] == code
    assert guarded.model.requests == []


@pytest.mark.parametrize("keys", [True, False])
def test_who_may_call_gets_what_the_document_says(guarded: Http, http: Http, keys: bool) -> None:
    server, headers = (guarded, ADMIN) if keys else (http, {})
    document = server.get("/openapi.json", headers=headers).json()["paths"]
    for route, path, method in every(server):
        answer = ask(server, method, path, headers)
        told = document[route.path.replace("{model:path}", "{model}")]
        if method.lower() in told:
            assert str(answer.status_code) in told[method.lower()]["responses"], (method, path, answer.text)
            assert answer.status_code not in (401, 403, 421, 500)
        else:
            assert answer.status_code == 405, (method, path)
            assert answer.headers["allow"]
        if answer.status_code >= 400 and method != "HEAD":
            error_of(answer)


def test_every_operation_is_in_the_document(http: Http) -> None:
    document = http.get("/openapi.json").json()["paths"]
    told = {(path, method.upper()) for path, operations in document.items() for method in operations}
    assert told == {(r.path.replace("{model:path}", "{model}"), method) for r in routes(http) for method in r.methods}


def test_a_page_that_may_call_can_ask_for_everything(guarded: Http) -> None:
    for route, path, _ in every(guarded):
        answer = guarded.options(path, headers={"origin": PAGE, "access-control-request-method": "POST"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, PAGE)
        assert set(route.methods) <= set(answer.headers["access-control-allow-methods"].split(", "))
        assert "access-control-allow-credentials" not in answer.headers


def test_only_keys_with_admin_may_change_which_models_there_are(guarded: Http) -> None:
    """What a key without `admin` may not do is exactly this: a new route that changes the server has to be listed."""
    refused = {path for route, path, m in every(guarded) if ask(guarded, m, path, KEY).status_code == 403}
    assert refused == {"/models/load", "/models/unload"}

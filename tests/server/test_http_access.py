"""Who may call: keys on every route and method, this server's names, and pages of other origins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.http_client import CHAT, HELLO, Http, error_of
from support.scripted_client import ScriptedClient

from pellucid.errors import InvalidParameter
from pellucid.server.keys import load_keys

KEYS = """
[[key]]
name = "alice"
key = "alice-secret"
priority = 2
max_concurrent_requests = 1
[[key]]
name = "bob"
key_sha256 = "81b637d8fcd2c6da6359e6963113a1170de795e4b725b84d1e0b4cfd9ec58ce9"
requests_per_minute = 2
"""  # bob's is "bob"


@pytest.fixture
def http() -> Iterator[Http]:
    with Http(ScriptedClient()) as client:
        yield client


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Http]:
    (tmp_path / "keys.toml").write_text(KEYS)
    with Http(ScriptedClient(), keys_file=tmp_path / "keys.toml", api_key="from-the-environment") as client:
        yield client


ALICE = {"authorization": "Bearer alice-secret"}
WRONG: list[list[tuple[str, str]]] = [
    [],
    [("authorization", "Bearer ")],
    [("authorization", "Bearer alice-secre")],
    [("authorization", "Bearer alice-secret2")],
    [("authorization", "alice-secret")],
    [("authorization", "Basic alice-secret")],
    [("x-api-key", "")],
    [("x-api-key", "x" * 8000)],
    [("authorization", "Bearer alice-secret"), ("authorization", "Bearer bob")],
    [("authorization", "Bearer alice-secret"), ("x-api-key", "bob")],
]


@pytest.mark.parametrize("headers", WRONG, ids=[str(h)[:50] for h in WRONG])
def test_every_route_and_method_needs_a_key(guarded: Http, headers: Any) -> None:
    paths = [route.path for route in guarded.routes] + ["/", "/no/such/path"]
    assert len(paths) >= 16
    for path in paths:
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
            answer = guarded.request(method, path, headers=headers)
            if path in ("/health/live", "/health/ready"):
                assert answer.status_code in (200, 405)
            else:
                assert answer.status_code == 401, (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.model.requests == []


def test_keys_have_names_limits_and_priorities(guarded: Http) -> None:
    body = {"messages": HELLO}
    for headers in (ALICE, {"x-api-key": "alice-secret"}, {"x-api-key": "from-the-environment"}):
        assert guarded.post(CHAT, json=body, headers=headers).status_code == 200
    assert [(r.tenant, r.priority) for r in guarded.model.requests] == [("alice", 2), ("alice", 2), ("default", 0)]
    assert guarded.post(CHAT, json={**body, "priority": 5}, headers=ALICE).status_code == 200
    assert guarded.model.requests[-1].priority == 5
    answer = guarded.post(CHAT, json={**body, "priority": 1}, headers=ALICE)
    assert (answer.status_code, error_of(answer)["param"]) == (400, "priority")
    codes = [guarded.post(CHAT, json=body, headers={"x-api-key": "bob"}).status_code for _ in range(4)]
    assert codes == [200, 200, 429, 429]
    alice = guarded.state.keys.find(b"alice-secret")
    assert alice is not None
    with alice.request():
        answer = guarded.post(CHAT, json=body, headers=ALICE)
        assert (answer.status_code, error_of(answer)["code"]) == (429, "rate_limit_exceeded")
    assert guarded.post(CHAT, json=body, headers=ALICE).status_code == 200


def test_only_admins_load_and_unload_models(guarded: Http, http: Http) -> None:
    body = {"model": "m"}
    answer = guarded.post("/models/unload", json=body, headers=ALICE)
    assert (answer.status_code, error_of(answer)["code"]) == (403, "not_an_admin")
    admin = {"x-api-key": "from-the-environment"}
    assert guarded.post("/models/unload", json=body, headers=admin).json()["state"] == "unloaded"
    assert guarded.post("/models/load", json=body, headers=admin).json()["state"] == "ready"
    assert http.post("/models/unload", json=body).status_code == 200, "on loopback and without keys, everyone is"
    with Http(ScriptedClient(), host="0.0.0.0") as open_to_all:
        assert open_to_all.post("/models/unload", json=body).status_code == 403
    assert error_of(http.post("/models/load", json={"model": "../x"}))["code"] == "model_not_found"


@pytest.mark.parametrize(
    "text",
    [
        "", "key = 1", "[[key]]", "[[key]]\nname = 'a'", "[[key]]\nname = 'a'\nkey = 'short'",
        "[[key]]\nname = 'a b'\nkey = 'long-enough'", "[[key]]\nname = 'a'\nkey = 'with a space'",
        "[[key]]\nname = 'a'\nkey = 'long-enough'\nkey_sha256 = 'x'", "[[key]]\nname = 'a'\nkey_sha256 = 'x'",
        "[[key]]\nname = 'a'\nkey = 'long-enough'\nrole = 'admin'",
        "[[key]]\nname = 'a'\nkey = 'long-enough'\npriority = 1.5",
        "[[key]]\nname = 'a'\nkey = 'long-enough'\nrequests_per_minute = 0", "\xff", "x = [" * 5000,
        "[[key]]\nname = 'a'\nkey = 'long-enough'\n[[key]]\nname = 'a'\nkey = 'another-one'",
        "[[key]]\nname = 'a'\nkey = 'long-enough'\n[[key]]\nname = 'b'\nkey = 'long-enough'",
    ],
)  # fmt: skip
def test_keys_files_that_are_wrong(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys.toml").write_text(text, encoding="latin-1")
    with pytest.raises(InvalidParameter) as caught:
        load_keys(tmp_path / "keys.toml", None)
    for key in ("short", "long-enough", "another-one"):
        assert key not in str(caught.value), "messages never hold a key"


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8000", True), ("localhost:8000", True), ("localhost", True), ("[::1]:8000", True),
        ("LOCALHOST.", True), ("evil.example.org", False), ("127.0.0.1.evil.org", False), ("10.0.0.1", False),
        ("localhost:8000@evil.org", False), ("localhost/x", False), ("", False), ("a" * 5000, False), ("[::1", False),
        ("localhost:99999", False),
    ],
)  # fmt: skip
def test_only_this_server_s_names(http: Http, host: str, allowed: bool) -> None:
    answer = http.get("/v1/models", headers={"host": host})
    assert answer.status_code == (200 if allowed else 421)
    if not allowed:
        assert error_of(answer)["code"] == "misdirected_request"


def test_more_names() -> None:
    with Http(ScriptedClient(), allowed_hosts=("llm.example.org",)) as http:
        assert http.get("/v1/models", headers={"host": "llm.example.org"}).status_code == 200
        assert http.get("/v1/models", headers={"host": "other.example.org"}).status_code == 421
    with Http(ScriptedClient(), host="0.0.0.0") as http:
        assert http.get("/v1/models", headers={"host": "10.0.0.1:8000"}).status_code == 200
        assert http.get("/v1/models", headers={"host": "evil.example.org"}).status_code == 421


def test_pages_of_other_origins_may_not_call(http: Http) -> None:
    page = {"origin": "https://page.example.org"}
    for route in http.routes:
        for method in ("GET", "POST", "OPTIONS", "DELETE"):
            answer = http.request(method, route.path, headers=page)
            assert (answer.status_code, error_of(answer)["code"]) == (403, "origin_not_allowed")
            assert "access-control-allow-origin" not in answer.headers
    assert http.get("/v1/models", headers={"origin": "null"}).status_code == 403
    assert http.get("/v1/models", headers={"origin": "http://127.0.0.1:8000"}).status_code == 200


def test_pages_that_are_allowed() -> None:
    page = {"origin": "https://page.example.org"}
    with Http(ScriptedClient(), cors_origins=("https://page.example.org",), api_key="0123456789") as http:
        answer = http.options(CHAT, headers=page)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "https://page.example.org"
        answer = http.post(CHAT, json={}, headers=page)
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "https://page.example.org"
        assert "access-control-allow-credentials" not in answer.headers
        assert http.options(CHAT, headers={"origin": "https://other.example.org"}).status_code == 403

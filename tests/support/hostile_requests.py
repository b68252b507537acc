"""Hostile bodies for a server: each must be answered with an error that names the cause, and hurt nobody else.

They fit any model with fewer than 900,000 tokens. What is hostile below HTTP's bodies is in test_hostile_world.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

COMPLETIONS, CHAT, MESSAGES, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/messages", "/v1/responses"
NO_SUCH_TOKEN = 999_999
ESCAPES = "\x1b[31m\r\nforged: line\x00"


@dataclass(frozen=True)
class HostileBody:
    """`named`: the field or the code that the error names; None where there is nothing wrong with it but its cost."""

    name: str
    path: str
    body: bytes
    named: str | None
    statuses: tuple[int, ...] = (400,)


BODIES: list[HostileBody] = []


def _add(name: str, path: str, body: Any, named: str | None, *statuses: int) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    BODIES.append(HostileBody(name, path, data, named, statuses or ((400,) if named else (200, 400))))


def _raw(name: str, *values: str, named: str | None = None) -> None:
    """Completions with a field that Python's JSON would not write."""
    for value in values:
        body = f'{{"prompt": "a", "max_tokens": 4, "{name}": {value}}}'.encode()
        _add(f"{name} {value[:20]}", COMPLETIONS, body, named or name)


def _fields() -> None:
    _raw("max_tokens", "0", "-1", str(2**63), '"5"', "true", "1.5", "[]")
    _raw("n", "0", "-1", str(10**18), "true", '"2"')
    _raw("seed", str(2**64), "-1", "1.5", "true", "1" + "0" * 400)
    _raw("logprobs", "-1", str(10**9), "true")
    _raw("priority", str(2**63), "1.5", "true")
    for field in ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"):
        _raw(field, "NaN", "Infinity", "-Infinity", "1e400", named="invalid_json")
        _raw(field, "-999999", "999999", "true", '"1"', "[1]")
    _raw("stop", json.dumps(["x"] * 100_000), '""', '[""]', "[1]", json.dumps("x" * 10_000))
    _raw("stop", '"\\ud83d"', '["\\udc00"]', named="invalid_json")
    _raw("stop_regex", '["(a"]', '["a{1000000}"]', json.dumps(["(" * 400 + ")" * 400]))
    _raw("logit_bias", f'{{"{NO_SUCH_TOKEN}": 1}}', '{"-1": 1}', '{"x": 1}', '{"1": 1000}')
    _raw("logit_bias", json.dumps({str(i): 1 for i in range(70_000)}))
    for field in ("stop_token_ids", "allowed_token_ids"):
        _raw(field, f"[{NO_SUCH_TOKEN}]", "[-1]", "[1.5]", "[true]", json.dumps([1] * 100_000))
    for prompt in ([NO_SUCH_TOKEN], [-1], [1.5], [True], [], [[]], [[1], [2**40]], {}, 5, [None], ["a", 1]):
        named = "prompt_token_ids" if prompt in ([NO_SUCH_TOKEN], [-1]) else "prompt"
        _add(f"prompt {prompt}", COMPLETIONS, {"prompt": prompt, "max_tokens": 1}, named)
    _add("2,049 prompts", COMPLETIONS, {"prompt": ["a"] * 2_049}, "prompt")
    _add("one word of 1 MB", COMPLETIONS, {"prompt": "a" * 1_000_000}, "context_length_exceeded")
    _add("one word of 10 MB", COMPLETIONS, {"prompt": "a" * 10_000_000}, "body_too_large", 413)
    _add("200,000 words", COMPLETIONS, {"prompt": "word " * 200_000}, "context_length_exceeded")
    _add("an unknown field", COMPLETIONS, {"prompt": "a", ESCAPES: 1}, "invalid_value")
    _add("a name of 1 MB", COMPLETIONS, {"prompt": "a", "x" * 1_000_000: 1}, "invalid_value")
    _add("a template", CHAT, {"messages": [], "chat_template": "{{ range(10**9) }}"}, "chat_template")
    _add("a salt of 1 MB", COMPLETIONS, {"prompt": "a", "cache_salt": "x" * 1_000_000}, "cache_salt")


def _json() -> None:
    for name, body in {
        "nothing": b"",
        "one byte": b"{",
        "a list": b"[]",
        "half a word": b"nul",
        "two values": b"{}{}",
        "not UTF-8": b'{"prompt": "\xff"}',
        "half a character": b'{"prompt": "\\ud800"}',
        "a NUL": b'{"prompt": "a"}\0',
        "100,000 lists deep": b"[" * 100_000,
        "100,000 objects deep": b'{"a":' * 100_000,
        "100,000 deep and closed": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "150,000 lists": b'{"prompt": [' + b"[]," * 150_000 + b"[]]}",
        "an endless string": b'{"prompt": "' + b'\\"' * 500_000,
        "an endless number": b'{"prompt": ' + b"9" * 100_000,
    }.items():
        _add(f"JSON: {name}", COMPLETIONS, body, "invalid_json", *((400,) if body else (400, 415)))


def _forms() -> None:
    def form(name: str, kind: str, value: Any, named: str | None = "structured_outputs") -> None:
        body = {"prompt": "a", "max_tokens": 4, "structured_outputs": {kind: value}}
        _add(f"a form: {name}", COMPLETIONS, body, named)

    form("10,000 deep", "json", '{"items":' * 10_000 + "{}" + "}" * 10_000, "json")
    form("refers to itself", "json", {"$ref": "#"}, "json")
    form("refers to a page", "json", {"$ref": "http://127.0.0.1:9/x.json"}, "json")
    form("refers to a file", "json", {"$ref": "file:///etc/passwd"}, "json")
    form("a million in an enum", "json", {"enum": list(range(1_000_000))}, "json")
    form("unsatisfiable", "json", {"type": "string", "minLength": 5, "maxLength": 2}, "json")
    form("plus of plus", "regex", "(a+)+$", None)
    form("a million", "regex", "a{1000000}", "regex")
    form("counts of counts", "regex", "((a{100}){100}){100}", "regex")
    form("exponential", "regex", "(a|b)*a(a|b){300}", None)
    form("deep", "regex", "(" * 9_000, "regex")
    form("half a regex", "regex", "(a", "regex")
    form("a pattern of NULs", "regex", "\0{5}", None)
    form("a grammar that doubles", "gbnf", "root ::= root root | root", None)
    form("no root", "gbnf", "a ::= b", "gbnf")
    form("nothing", "choice", [], "choice")
    form("too many", "choice", ["x"] * 5_000, "choice")
    form("no kind of form", "pickle", "gASV", "pickle")


def _conversations() -> None:
    user = {"role": "user", "content": "a"}
    for role in ("", "x" * 1_000_000, 1, None):
        _add(f"role {str(role)[:20]!r}", CHAT, {"messages": [{"role": role, "content": "a"}]}, "messages[0].role")
    body = {"max_tokens": 1, "messages": [{"role": "root", "content": "a"}]}
    _add("nobody's role", MESSAGES, body, "messages[0].role")
    for url in ("file:///etc/passwd", "http://169.254.169.254/latest", "http://127.0.0.1:9/a.png", "https://[::1]/a"):
        image = [{"type": "image_url", "image_url": {"url": url}}]
        body = {"messages": [{"role": "user", "content": image}]}
        _add(f"an image at {url}", CHAT, body, "messages[0].content[0].type")
        source = [{"type": "image", "source": {"type": "url", "url": url}}]
        body = {"max_tokens": 1, "messages": [{"role": "user", "content": source}]}
        _add(f"a message's image at {url}", MESSAGES, body, "messages[0].content[0].type")
        item = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
        _add(f"a response's image at {url}", RESPONSES, {"input": item}, "input[0].content[0].type")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    _add("10,000 tools", CHAT, {"messages": [user], "tools": [tool] * 10_000}, "tools")
    wide = {"type": "function", "function": {"name": "f", "description": "x" * 1_000_000}}
    _add("a tool of 1 MB", CHAT, {"messages": [user], "tools": [wide]}, "tools")
    named = {"type": "function", "function": {"name": "../../x"}}
    _add("a tool that is a path", CHAT, {"messages": [user], "tools": [named]}, "tools[0].function.name")
    _add("no messages", CHAT, {"messages": []}, "messages")
    _add("50,000 messages", CHAT, {"messages": [user] * 50_000}, None, 400)
    for key in ("../x", "x" * 1_000_000):
        body = {"input": "a", "previous_response_id": key}
        _add(f"the response {key[:9]!r}", RESPONSES, body, "response_not_found", 404)
    _add("17 pieces of metadata", RESPONSES, {"input": "a", "metadata": {str(i): "x" for i in range(17)}}, "metadata")


def _names() -> None:
    for name in ("../../x", "%2e%2e%2f", "..", "/etc/passwd", "a\0b", "x" * 1_000_000, ESCAPES, ""):
        for path, field in ((COMPLETIONS, "prompt"), ("/v1/embeddings", "input"), ("/tokenize", "prompt")):
            body = {"model": name, field: "a"}
            _add(f"model {name[:12]!r} of {path}", path, body, "model_not_found", 404)
    for name in (1, [], True):
        _add(f"model {name!r}", COMPLETIONS, {"model": name, "prompt": "a"}, "model")
    for path in ("/models/load", "/models/unload"):
        _add(f"{path} of a path", path, {"model": "../../x"}, "model_not_found", 404)


def _readings() -> None:
    for ids in ([[NO_SUCH_TOKEN]], [[-1]], [[1.5]], [[]], [], [None]):
        _add(f"embeddings of {ids}", "/v1/embeddings", {"input": ids}, "invalid_value")
    _add("embeddings of 2,049", "/v1/embeddings", {"input": ["a"] * 2_049}, "input")
    _add("an embedding of 1 MB", "/v1/embeddings", {"input": "a" * 1_000_000}, "context_length_exceeded")
    _add("2^31 dimensions", "/v1/embeddings", {"input": "a", "dimensions": 2**31}, "dimensions")
    _add("the same label twice", "/v1/classify", {"input": "a", "labels": ["x", "x"]}, "labels")
    _add("100,000 labels", "/v1/classify", {"input": "a", "labels": [f"l{i}" for i in range(100_000)]}, "labels")
    _add("a score of nothing", "/v1/score", {"text_1": "a", "text_2": []}, "text_2")
    _add("2,049 documents", "/v1/rerank", {"query": "a", "documents": ["a"] * 2_049}, "documents")
    _add("top_n of -1", "/v1/rerank", {"query": "a", "documents": ["a"], "top_n": -1}, "top_n")
    for tokens in ([NO_SUCH_TOKEN], [-1], [1.5], ["a"], "a", [2**63]):
        _add(f"detokenize {tokens}", "/detokenize", {"tokens": tokens}, "invalid_value")
    _add("tokenize a number", "/tokenize", {"prompt": 5}, "prompt")
    _add("a path as a model", "/v1/models/..%2f..%2fetc%2fpasswd", {}, "method_not_allowed", 405)


for _section in (_fields, _json, _forms, _conversations, _names, _readings):
    _section()

"""The routes over a scripted model: what OpenAI's clients send and get, and errors in one shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.http_client import CHAT, COMPLETIONS, HELLO, Http, error_of
from support.scripted_client import SCRIPT, ScriptedClient

from pellucid.errors import ContextLengthExceeded, EngineRestarting, ExecutorError
from pellucid.server.settings import Limits


@pytest.fixture
def http() -> Iterator[Http]:
    with Http(ScriptedClient()) as client:
        yield client


def test_a_chat(http: Http) -> None:
    answer = http.chat(model="m", temperature=0.5, priority=3, cache_salt="s", seed=5)
    body = answer.json()
    assert (body["object"], body["model"]) == ("chat.completion", "m")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(SCRIPT), "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 4,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    [request] = http.model.requests
    assert (request.messages, request.params.temperature, request.params.seed) == (HELLO, 0.5, 5)
    assert (request.priority, request.cache_salt, request.tenant, request.stream) == (3, "s", "", False)
    assert request.request_id == answer.headers["x-request-id"]


def test_a_streamed_chat(http: Http) -> None:
    events = http.events(CHAT, messages=HELLO, n=2, stream_options={"include_usage": True}, receipt=True)
    assert events.pop() == "[DONE]"
    usage, receipt = events.pop(), events.pop()
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 8
    assert receipt["receipt"]["model"] == "m.gguf", "the folder is nobody's business"
    assert len({event["id"] for event in events}) == 1
    texts = ["", ""]
    for event in events:
        assert event["usage"] is None
        [choice] = event["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == ["".join(SCRIPT)] * 2
    assert [e["choices"][0]["finish_reason"] for e in events].count("stop") == 2
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_logprobs_of_a_chat(http: Http) -> None:
    whole = http.chat(logprobs=True, top_logprobs=1).json()["choices"][0]["logprobs"]["content"]
    assert [p["token"] for p in whole] == list(SCRIPT)
    assert whole[0]["top_logprobs"] == [{"token": "Once", "logprob": -0.5, "bytes": list(b"Once")}]
    events = http.events(CHAT, messages=HELLO, logprobs=True, top_logprobs=1)
    streamed = [p for e in events[:-1] if e["choices"][0]["logprobs"] for p in e["choices"][0]["logprobs"]["content"]]
    assert streamed == whole


def test_completions_of_several_prompts(http: Http) -> None:
    body = http.post(COMPLETIONS, json={"prompt": ["a", "b"], "n": 2, "logprobs": 1, "max_tokens": 4}).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["choices"][3]["logprobs"]["text_offset"] == [0, 4, 9, 11]
    assert body["usage"]["total_tokens"] == 2 * 5 + 4 * 4
    events = http.events(COMPLETIONS, prompt=["a", "b"], n=2, logprobs=1)
    texts: list[str] = [""] * 4
    offsets: list[list[int]] = [[], [], [], []]
    for event in events[:-1]:
        [choice] = event["choices"]
        texts[choice["index"]] += choice["text"]
        offsets[choice["index"]] += choice["logprobs"]["text_offset"] if choice["logprobs"] else []
    assert texts == ["".join(SCRIPT)] * 4
    assert offsets[3] == [0, 4, 9, 11]
    assert {request.prompt for request in http.model.requests} == {"a", "b"}


def test_echo(http: Http) -> None:
    body = http.post(COMPLETIONS, json={"prompt": "Tell: ", "echo": True}).json()
    assert body["choices"][0]["text"] == "Tell: " + "".join(SCRIPT)
    events = http.events(COMPLETIONS, prompt="Tell: ", echo=True)
    assert "".join(e["choices"][0]["text"] for e in events[:-1]) == "Tell: " + "".join(SCRIPT)
    asked = {"prompt": "12345", "echo": True, "logprobs": 1}
    (choice,) = http.post(COMPLETIONS, json=asked).json()["choices"]
    assert choice["text"] == "12345Once upon a time"
    assert choice["logprobs"]["tokens"] == ["1", "2", "3", "4", "5", *SCRIPT]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 3, 4, 5, 9, 14, 16]
    assert choice["logprobs"]["token_logprobs"] == [None, *[-0.5] * 8]
    assert choice["logprobs"]["top_logprobs"][:2] == [None, {"2": -0.5, "x": -1.5}]
    assert error_of(http.post(COMPLETIONS, json={**asked, "stream": True}))["param"] == "echo"
    assert error_of(http.post(COMPLETIONS, json={**asked, "prompt_logprobs": 2}))["param"] == "prompt_logprobs"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": HELLO, "frobnicate": 1}, "frobnicate"),
        (CHAT, {"messages": HELLO, "functions": []}, "functions"),
        (CHAT, {"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        (CHAT, {"messages": HELLO, "n": True}, "n"),
        (CHAT, {"messages": HELLO, "logit_bias": {"-1": 1}}, "logit_bias"),
        (CHAT, {}, "messages"),
        (COMPLETIONS, {"prompt": [1, "a"]}, "prompt"),
        (COMPLETIONS, {"prompt": [1.5]}, "prompt"),
        (COMPLETIONS, {"prompt": [[1], [2**40]]}, "prompt"),
        ("/v1/embeddings", {"input": ["a", ""]}, "input"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": [""]}, "input"),
        ("/v1/embeddings", {"input": "a", "user": False}, "user"),
        ("/v1/embeddings", {"input": "a", "encoding_format": []}, "encoding_format"),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}, "dimensions"),
        ("/v1/score", {"text_1": ["a"], "text_2": "b"}, "text_1"),
        ("/v1/rerank", {"query": "a", "documents": [{"txt": "b"}]}, "documents[0]"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "top_n": 2}, "top_n"),
        ("/v1/classify", {"input": "a"}, "labels"),
        ("/tokenize", {"prompt": "a", "content": "b"}, "prompt"),
        ("/tokenize", {}, "prompt"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"),
        ("/apply-template", {"messages": HELLO, "tools": {}}, "tools"),
    ],
)
def test_wrong_fields_are_named(http: Http, path: str, body: Any, param: str) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param
    assert error_of(answer)["type"] == "invalid_request_error"


def test_without_strict_a_header_names_what_was_left_out() -> None:
    with Http(ScriptedClient(), strict=False) as http:
        answer = http.chat(**{"frobnicate": 1, "bad\r\nname\x1b": 2})
        assert answer.status_code == 200
        assert answer.headers["x-pellucid-ignored"] == "frobnicate, bad??name?"
        assert http.chat(functions=[]).status_code == 400, "what is known and not supported is refused all the same"


BAD_BODIES = [
    b"",
    b"{",
    b"[]",
    b"nul",
    b'{"a": NaN}',
    b'{"a": 1e400}',
    b'{"a": "\\ud800"}',
    b'{"a": "\xff"}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"a": [' + b"[]," * 150_000 + b"[]]}",
    b'"' + b'\\"' * 500_000,
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=[repr(body[:12]) for body in BAD_BODIES])
def test_bodies_that_are_no_json(http: Http, body: bytes) -> None:
    answer = http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_json")
    assert http.chat().status_code == 200


def test_huge_integers_are_refused_by_name(http: Http) -> None:
    body = b'{"messages": [{"role": "user", "content": "a"}], "seed": 1' + b"0" * 400 + b"}"
    answer = http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, error_of(answer)["param"]) == (400, "seed")


def test_limits_before_parsing() -> None:
    with Http(ScriptedClient(), limits=Limits(body_nbytes=1000)) as http:
        headers = {"content-type": "application/json"}
        assert http.post(CHAT, content=b"x" * 1001, headers=headers).status_code == 413

        def chunks() -> Iterator[bytes]:
            for _ in range(1001):
                yield b"x"

        assert http.post(CHAT, content=chunks(), headers=headers).status_code == 413
        for wrong in ({"content-type": "text/plain"}, {"content-type": ""}, {**headers, "content-encoding": "gzip"}):
            assert http.post(CHAT, content=b"{}", headers=wrong).status_code == 415
        assert http.model.requests == []


def test_errors_of_the_engine_keep_their_status(http: Http) -> None:
    def fail(error: Exception) -> None:
        def before_start(request: Any) -> None:
            raise error

        http.model.before_start = before_start

    fail(ContextLengthExceeded("too long"))
    for stream in (False, True):
        answer = http.chat(stream=stream)
        assert (answer.status_code, error_of(answer)["code"]) == (400, "context_length_exceeded")
    fail(EngineRestarting("lost", 3))
    answer = http.chat(stream=True)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    for error in (ValueError("/secret/path"), ExecutorError("/secret/path")):
        fail(error)
        answer = http.chat()
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert answer.headers["x-request-id"] in answer.text


def test_an_error_in_a_stream_is_its_last_event(http: Http) -> None:
    def before_token(request: Any, i: int) -> None:
        if i == 2:
            raise EngineRestarting("the engine was lost", 1)

    http.model.before_token = before_token
    events = http.events(CHAT, messages=HELLO)
    assert events[-1]["error"]["code"] == "engine_restarting"
    assert http.state.admission.num_requests == 0


def test_reading_endpoints(http: Http) -> None:
    body = http.post("/v1/embeddings", json={"input": ["ab", [1, 2, 3]]}).json()
    assert [item["embedding"] for item in body["data"]] == [[1.0, 0.5, 2.0], [1.0, 0.5, 3.0]]
    assert body["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    body = http.post("/v1/embeddings", json={"input": "ab", "encoding_format": "base64"}).json()
    assert body["data"][0]["embedding"] == "AACAPwAAAD8AAABA"
    body = http.post("/v1/score", json={"text_1": "ab", "text_2": ["ab", "abc"]}).json()
    assert [item["score"] for item in body["data"]] == [1.0, 0.5]
    documents = ["abcd", {"text": "ab"}, "abc"]
    body = http.post("/v1/rerank", json={"query": "ab", "documents": documents, "top_n": 2}).json()
    assert [(r["index"], r["document"]["text"]) for r in body["results"]] == [(1, "ab"), (2, "abc")]
    body = http.post("/v1/classify", json={"input": "ab", "labels": ["x", "y"]}).json()
    assert body["data"][0]["probs"] == [0.5, 0.5]


def test_tokens_and_templates(http: Http) -> None:
    body = http.post("/tokenize", json={"prompt": "ab c"}).json()
    assert body == {"count": 3, "max_model_len": 512, "tokens": [1, 2, 1]}
    assert http.post("/tokenize", json={"content": "ab c"}).json()["tokens"] == [2, 1]
    assert http.post("/tokenize", json={"messages": HELLO}).json()["count"] == len("<user>Hello")
    assert http.post("/detokenize", json={"tokens": [1, 2]}).json()["content"] == "1 2"
    assert http.post("/apply-template", json={"messages": HELLO}).json()["prompt"] == "<user>Hello"


def test_models_and_health(http: Http) -> None:
    [model] = http.get("/v1/models").json()["data"]
    assert (model["id"], model["max_model_len"], model["quantization"]) == ("m", 512, "Q4_1")
    assert http.get("/v1/models/m").json() == model
    assert http.get("/v1/models/x").status_code == 404
    assert http.chat(model="x").status_code == 404
    assert http.get("/health/live").status_code == 200
    assert http.get("/health/ready").json() == {"status": "ready"}
    for state in ("loading", "stalled", "restarting", "failed"):
        http.model.state = state
        answer = http.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, state)
        assert http.get("/health/live").status_code == 200


def test_metrics(http: Http) -> None:
    http.chat()
    http.chat(frobnicate=1)
    http.events(CHAT, messages=HELLO)
    http.get("/no/such/path")
    text = http.get("/metrics").text
    for line in (
        'pellucid_num_requests_running{model="m"} 1.0',
        'pellucid_kv_cache_usage_ratio{model="m"} 0.4',
        'pellucid_prompt_tokens_total{model="m"} 7.0',
        'pellucid_request_success_total{finish_reason="stop",model="m"} 2.0',
        'pellucid_time_to_first_token_seconds_count{model="m"} 2.0',
        'pellucid_inter_token_latency_seconds_count{model="m"} 3.0',
        'pellucid_http_requests_total{route="/v1/chat/completions",status="400"} 1.0',
        'pellucid_http_requests_total{route="unknown",status="404"} 1.0',
        "pellucid_queued_requests 0.0",
    ):
        assert line in text
    assert "no/such/path" not in text


def test_draining(http: Http) -> None:
    http.state.draining = True
    answer = http.chat()
    assert (answer.status_code, error_of(answer)["code"]) == (503, "shutting_down")
    assert answer.headers["retry-after"] == "5"
    assert http.get("/health/ready").json() == {"status": "draining"}
    assert http.get("/health/live").status_code == 200


def test_the_queue_is_bounded() -> None:
    with Http(ScriptedClient(), limits=Limits(queued_requests=1)) as http, http.state.admission.queue(1):
        answer = http.chat()
        assert (answer.status_code, error_of(answer)["code"]) == (429, "server_overloaded")
        assert 'route="/v1/chat/completions",status="429"' in http.get("/metrics").text
        assert http.post(CHAT, json={"no": "such field"}).status_code == 429, "no body is read for it"
        assert http.get("/v1/models").status_code == 200
        assert int(answer.headers["retry-after"]) >= 1
        assert http.model.requests == []


def test_paths_and_methods_that_are_not_there(http: Http) -> None:
    answer = http.get(CHAT)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert error_of(answer)["code"] == "method_not_allowed"
    for path in ("/", "/v1", "/v1/chat/completions/", "/%2e%2e%2fetc/passwd", "/v1/models/%2e%2e/x", "/" + "a" * 5000):
        answer = http.get(path)
        assert answer.status_code == 404
        error_of(answer)


def test_the_document_says_what_the_routes_take(http: Http) -> None:
    document = http.get("/openapi.json").json()
    assert document["info"]["x-limits"]["body_nbytes"] == 8 << 20
    chat = document["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert chat["properties"]["top_p"]["anyOf"][0]["maximum"] == 1
    assert chat["additionalProperties"] is False
    paths = {route.path for route in http.routes}
    assert {path.replace("{model}", "{model:path}") for path in document["paths"]} == paths
    page = http.get("/docs").text
    assert "POST /v1/chat/completions" in page
    assert "<script" not in page
    assert "src=" not in page


def test_nobody_takes_more_of_the_queue_than_the_context_holds(http: Http) -> None:
    """A text of 7 MB, which no model could read, filled the queue of tokens while it was being tokenised."""
    taken: list[int] = []
    http.model.before_start = lambda request: taken.append(http.state.admission.num_tokens)
    http.post(COMPLETIONS, json={"prompt": "a" * 1_000_000, "max_tokens": 2**31 - 1, "n": 2})
    http.post(COMPLETIONS, json={"prompt": "a" * 30, "max_tokens": 5})
    assert taken == [3 * 512, 15]

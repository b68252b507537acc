"""/v1/responses over a scripted model: what reaches the model, what comes back, and what is remembered for whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from support.http_client import Http, error_of
from support.scripted_client import ScriptedClient

from pellucid.api.blocks import BlockStream
from pellucid.chat.calls import ToolCall, ToolCallDelta
from pellucid.engine.outputs import Logprob, PositionLogprobs, RequestOutput, StreamChunk
from pellucid.server.messages import Finished, GenerateRequest, Started
from pellucid.server.settings import Limits

PATH = "/v1/responses"
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": True}


class ThinkingClient(ScriptedClient):
    """Thinks, says something, and calls; ends for the reason given."""

    finish_reason = "stop"
    arguments = '{"place": "Oslo"}'

    async def generate(self, request: GenerateRequest) -> Any:
        self.requests.append(request)
        yield Started(0, 5, 2)
        if request.stream:
            yield StreamChunk(0, "", [1], reasoning="Look ")
            yield StreamChunk(0, "", [2], reasoning="it up.")
            yield StreamChunk(0, "One moment.", [3])
            yield StreamChunk(0, "", [4], tool_calls=[ToolCallDelta(0, "call_1", "weather", self.arguments[:4])])
            last = [ToolCallDelta(0, None, None, self.arguments[4:])]
            yield StreamChunk(0, "", [5], tool_calls=last, finish_reason=self.finish_reason)
        yield Finished(0, self.result(request))

    def result(self, request: GenerateRequest) -> RequestOutput:
        plain = super().result(request)
        answer = replace(
            plain.outputs[0],
            text="One moment.",
            reasoning="Look it up.",
            tool_calls=[ToolCall("call_1", "weather", self.arguments)],
            finish_reason=self.finish_reason,
        )
        return replace(plain, outputs=[answer])


@pytest.fixture
def http() -> Iterator[Http]:
    with Http(ScriptedClient()) as client:
        yield client


def ask(http: Http, **fields: Any) -> dict[str, Any]:
    answer = http.post(PATH, json={"input": "Hello", **fields})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def events_of(http: Http, **fields: Any) -> list[dict[str, Any]]:
    found = []
    for text in http.post(PATH, json={"input": "Hello", "stream": True, **fields}).text.split("\n\n"):
        if text:
            name, data = text.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def without_ids(response: dict[str, Any]) -> dict[str, Any]:
    output = [{name: value for name, value in item.items() if name != "id"} for item in response["output"]]
    return {**response, "id": "", "created_at": 0, "output": output}


def test_a_response(http: Http) -> None:
    answer = ask(http, max_output_tokens=8, metadata={"a": "b"}, min_p=0.25, stop="END", instructions="Be brief.")
    assert answer.pop("id").startswith("resp_")
    assert answer.pop("created_at") > 1_700_000_000
    (message,) = answer.pop("output")
    assert message.pop("id").startswith("msg_")
    text = {"type": "output_text", "text": "Once upon a time", "annotations": [], "logprobs": []}
    assert message == {"type": "message", "role": "assistant", "status": "completed", "content": [text]}
    assert answer == {
        "object": "response", "status": "completed", "background": False, "error": None, "incomplete_details": None,
        "model": "m", "reasoning": {"effort": None, "summary": None}, "truncation": "disabled",
        "instructions": "Be brief.", "max_output_tokens": 8, "metadata": {"a": "b"}, "parallel_tool_calls": True,
        "previous_response_id": None, "store": True, "temperature": 1.0, "text": {"format": {"type": "text"}},
        "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": 1.0,
        "usage": {
            "input_tokens": 5, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 4,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 9,
        },
    }  # fmt: skip
    (request,) = http.model.requests
    assert request.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert (request.params.max_tokens, request.params.min_p, request.params.stop) == (8, 0.25, ("END",))


def test_a_stream_tells_the_same_in_events(http: Http) -> None:
    events = events_of(http)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", *["output_text.delta"] * 4,
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert "".join(e["delta"] for e in events if e["type"].endswith("delta")) == "Once upon a time"
    assert events[0]["response"]["status"] == "in_progress"
    assert without_ids(events[-1]["response"]) == without_ids(ask(http))
    assert events[-2]["item"] == events[-1]["response"]["output"][0]


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_reasoning_text_and_calls_are_items(reason: str) -> None:
    model = ThinkingClient()
    model.finish_reason = reason
    with Http(model) as http:
        whole, events = ask(http, tools=[WEATHER]), events_of(http, tools=[WEATHER])
    end = "completed" if reason == "stop" else "incomplete"
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
        "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        end,
    ]  # fmt: skip
    assert without_ids(events[-1]["response"]) == without_ids(whole)
    assert [event["item"] for event in events if event["type"].endswith("item.done")] == (
        events[-1]["response"]["output"]
    )
    thought, said, call = whole["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Look it up."}]
    assert (said["content"][0]["text"], said["status"]) == ("One moment.", "completed")
    assert (call["call_id"], call["name"], call["status"]) == ("call_1", "weather", end)
    assert call["arguments"] == '{"place": "Oslo"}'
    assert whole["status"] == end
    assert whole["incomplete_details"] == (None if reason == "stop" else {"reason": "max_output_tokens"})
    assert whole["tools"] == [{**WEATHER, "description": None}]


def test_a_conversation_goes_on_from_the_server_or_from_items() -> None:
    model = ThinkingClient()
    result = {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "9 C"}]}
    with Http(model) as http:
        first = ask(http, instructions="Once.", tools=[WEATHER])
        ask(http, input=[result], previous_response_id=first["id"], tools=[WEATHER])
        question = {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}
        ask(http, input=[question, *first["output"], result], tools=[WEATHER], store=False)
    _, remembered, given = model.requests
    assert remembered.messages == given.messages
    call = {"id": "call_1", "type": "function"}
    function = {"name": "weather", "arguments": '{"place": "Oslo"}'}
    assert given.messages == [
        {"role": "user", "content": "Hello"},
        {
            "role": "assistant",
            "content": "One moment.",
            "reasoning_content": "Look it up.",
            "tool_calls": [{**call, "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "9 C"},
    ]


def test_a_stream_is_remembered_and_a_call_cut_off_is_not() -> None:
    model = ThinkingClient()
    model.finish_reason, model.arguments = "length", '{"place": "Os'
    with Http(model) as http:
        last = events_of(http)[-1]["response"]
        assert http.get(f"{PATH}/{last['id']}").json() == last
        ask(http, previous_response_id=last["id"])
    said = {"role": "assistant", "content": "One moment.", "reasoning_content": "Look it up."}
    hello = {"role": "user", "content": "Hello"}
    assert model.requests[-1].messages == [hello, said, hello]


def test_stored_responses_are_given_and_forgotten(http: Http) -> None:
    answer = ask(http)
    path = f"{PATH}/{answer['id']}"
    assert http.get(path).json() == answer
    assert error_of(http.get(path, params={"stream": "true"}))["param"] == "stream"
    assert http.delete(path).json() == {"id": answer["id"], "object": "response", "deleted": True}
    for gone in (http.get(path), http.delete(path), http.post(PATH, json={"input": "x"} | {
        "previous_response_id": answer["id"]
    })):  # fmt: skip
        assert (gone.status_code, error_of(gone)["code"]) == (404, "response_not_found")
    assert http.get(f"{PATH}/{ask(http, store=False)['id']}").status_code == 404


def test_responses_of_another_key_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(
        '[[key]]\nname = "alice"\nkey = "alice-secret"\n[[key]]\nname = "bob"\nkey = "bobs-secret"\n'
    )
    alice, bob = {"x-api-key": "alice-secret"}, {"x-api-key": "bobs-secret"}
    with Http(ScriptedClient(), keys_file=tmp_path / "keys.toml") as http:
        id = http.post(PATH, json={"input": "Hello"}, headers=alice).json()["id"]
        assert http.get(f"{PATH}/{id}", headers=bob).status_code == 404
        assert http.delete(f"{PATH}/{id}", headers=bob).status_code == 404
        body = {"input": "x", "previous_response_id": id}
        assert http.post(PATH, json=body, headers=bob).status_code == 404
        assert http.post(PATH, json=body, headers=alice).status_code == 200
        assert len(http.model.requests) == 2


def test_forms_and_tools_reach_the_model(http: Http) -> None:
    schema = {"type": "object", "properties": {}}
    format = {"type": "json_schema", "name": "city", "schema": schema, "strict": True}
    assert ask(http, text={"format": format})["text"] == {"format": format}
    ask(http, text={"format": {"type": "json_object"}})
    choice = {"type": "function", "name": "weather"}
    assert ask(http, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False)["tool_choice"] == choice
    first, second, third = http.model.requests
    assert json.loads(first.params.structured_outputs.json) == schema
    assert second.params.structured_outputs.json_object is True
    function = {"name": "weather", "parameters": WEATHER["parameters"], "strict": True}
    assert third.tools == [{"type": "function", "function": function}]
    assert (third.tool_choice, third.parallel_tool_calls) == (
        {"type": "function", "function": {"name": "weather"}},
        False,
    )


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [7]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": "x", "name": "n"}]}, "input[0].name"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input[0].encrypted_content"),
        ({"input": [{"type": "reasoning", "summary": [{}]}]}, "input[0].summary"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_tokens": 4}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"background": True, "store": False}, "background"),
        ({"background": True, "stream": True}, "background"),
        ({"include": "message.output_text.logprobs"}, "include"),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 21}, "top_logprobs"),
        ({"truncation": "auto"}, "truncation"),
        ({"frobnicate": 1}, "frobnicate"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_object"}}, "structured_outputs": {"regex": "a"}}, "text.format"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"store": "yes"}, "store"),
    ],
)
def test_what_is_not_understood_is_named(http: Http, change: dict[str, Any], param: str) -> None:
    answer = http.post(PATH, json={"input": "Hello"} | change)
    assert answer.status_code == 400, answer.text
    assert error_of(answer)["param"] == param
    assert not http.model.requests


def test_a_stream_that_fails_says_so_last_and_is_not_stored(http: Http) -> None:
    def fail(request: Any, i: int) -> None:
        if i == 2:
            raise RuntimeError("secret")

    http.model.before_token = fail
    last = events_of(http)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["output"][0]["content"][0]["text"] == "Once upon"
    assert "secret" not in json.dumps(last)
    assert http.get(f"{PATH}/{last['response']['id']}").status_code == 404


LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}


def test_logprobs_are_those_of_the_text(http: Http) -> None:
    whole, events = ask(http, **LOGPROBS), events_of(http, **LOGPROBS)
    assert whole["top_logprobs"] == 1
    found = whole["output"][0]["content"][0]["logprobs"]
    assert [position["token"] for position in found] == ["Once", " upon", " a", " time"]
    assert found[0]["top_logprobs"] == [{"token": "Once", "logprob": -0.5, "bytes": list(b"Once")}]
    assert without_ids(events[-1]["response"]) == without_ids(whole)
    assert [p for e in events if e["type"].endswith("text.delta") for p in e["logprobs"]] == found
    assert next(e for e in events if e["type"].endswith("text.done"))["logprobs"] == found


def test_logprobs_of_reasoning_and_calls_are_not_the_texts() -> None:
    blocks = BlockStream()
    chunks = [
        StreamChunk(0, "", [1], [_position("<think>")]),
        StreamChunk(0, "", [2], [_position("Hm")], reasoning="Hm"),
        StreamChunk(0, "", [3], [_position("</think>")]),
        StreamChunk(0, "Yes", [4], [_position("Yes")]),
        StreamChunk(0, "", [5], [_position(".")]),
        StreamChunk(0, "", [6], [_position("f")], tool_calls=[ToolCallDelta(0, "call_1", "f", "{}")]),
    ]
    for chunk in chunks:
        list(blocks.piece(chunk))
    said = {block.kind: [next(iter(p.values())).decoded_token for p in block.logprobs] for block in blocks.blocks}
    assert said == {"reasoning": [], "text": ["Yes", "."], "call": []}


def _position(token: str) -> PositionLogprobs:
    return {0: Logprob(-0.5, 1, token)}


def test_input_items_come_in_pages(http: Http) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    given = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        call,
        {"type": "function_call_output", "call_id": "c", "output": "Three"},
    ]
    path = f"{PATH}/{ask(http, input=given)['id']}/input_items"
    whole = http.get(path, params={"order": "asc"}).json()
    assert [item["type"] for item in whole["data"]] == ["message", "message", "function_call", "function_call_output"]
    assert whole["data"][0]["content"] == [{"type": "input_text", "text": "One"}]
    assert whole["data"][1]["content"] == [{"type": "output_text", "text": "Two", "annotations": []}]
    assert whole["data"][2] == {**call, "id": whole["data"][2]["id"], "status": "completed"}
    assert (whole["has_more"], whole["first_id"], whole["last_id"]) == (
        False, whole["data"][0]["id"], whole["data"][3]["id"],
    )  # fmt: skip
    page = http.get(path, params={"limit": 3}).json()
    assert (page["data"], page["has_more"]) == (whole["data"][:0:-1], True)
    rest = http.get(path, params={"limit": 3, "after": page["last_id"]}).json()
    assert (rest["data"], rest["has_more"]) == (whole["data"][:1], False)
    for query, param in (
        ({"limit": "0"}, "limit"), ({"limit": "x"}, "limit"), ({"order": "up"}, "order"), ({"after": "x"}, "after"),
        ({"include": "x"}, "include"),
    ):  # fmt: skip
        assert error_of(http.get(path, params=query))["param"] == param
    assert ask(http, input=whole["data"])["status"] == "completed", "they may be given again"
    assert http.get(f"{PATH}/resp_x/input_items").status_code == 404


def test_a_response_in_the_background_is_asked_for(http: Http) -> None:
    go_on = asyncio.Event()
    http.model.before_start = lambda request: go_on.wait()
    begun = ask(http, background=True)
    assert (begun["status"], begun["background"], begun["output"]) == ("in_progress", True, [])
    path = f"{PATH}/{begun['id']}"
    assert http.get(path).json() == begun
    assert len(http.get(f"{path}/input_items").json()["data"]) == 1
    refused = http.post(PATH, json={"input": "x", "previous_response_id": begun["id"]})
    assert error_of(refused)["param"] == "previous_response_id"
    assert http.portal is not None
    http.portal.call(go_on.set)
    ended = until_ended(http, path)
    assert ended["output"][0]["content"][0]["text"] == "Once upon a time"
    assert without_ids(ended) == without_ids({**ask(http), "background": True})
    assert http.post(f"{path}/cancel").json() == ended, "too late"
    assert ask(http, previous_response_id=begun["id"])["status"] == "completed"


def test_a_response_in_the_background_is_cancelled(http: Http) -> None:
    http.model.before_start = lambda request: asyncio.Event().wait()
    id = ask(http, background=True)["id"]
    assert http.state.num_unfinished == 1, "it counts as long as it runs"
    cancelled = http.post(f"{PATH}/{id}/cancel").json()
    assert (cancelled["status"], cancelled["output"], http.model.left) == ("cancelled", [], 1)
    assert http.get(f"{PATH}/{id}").json() == http.post(f"{PATH}/{id}/cancel").json() == cancelled
    assert http.state.num_unfinished == 0
    refused = http.post(PATH, json={"input": "x", "previous_response_id": id})
    assert error_of(refused)["param"] == "previous_response_id"
    other = ask(http, background=True)["id"]
    assert http.delete(f"{PATH}/{other}").json()["deleted"]
    assert http.get(f"{PATH}/{other}").status_code == 404
    assert http.model.left == 2


def test_only_what_runs_in_the_background_can_be_cancelled(http: Http) -> None:
    assert error_of(http.post(f"{PATH}/{ask(http)['id']}/cancel"))["param"] == "response_id"
    assert http.post(f"{PATH}/resp_x/cancel").status_code == 404


def test_a_response_in_the_background_fails_with_a_reason() -> None:
    with Http(ScriptedClient(), limits=Limits(queued_requests=1)) as http:
        http.model.before_start = lambda request: asyncio.Event().wait()
        first = ask(http, background=True)["id"]
        assert http.post(PATH, json={"input": "x", "background": True}).status_code == 429
        http.post(f"{PATH}/{first}/cancel")

        async def fail(request: Any) -> None:
            await asyncio.sleep(0.01)
            raise RuntimeError("secret")

        http.model.before_start = fail
        failed = until_ended(http, f"{PATH}/{ask(http, background=True)['id']}")
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert "secret" not in json.dumps(failed)


def until_ended(http: Http, path: str) -> dict[str, Any]:
    until = monotonic() + 20
    while (found := http.get(path).json())["status"] == "in_progress":
        assert monotonic() < until
        sleep(0.01)
    body: dict[str, Any] = found
    return body

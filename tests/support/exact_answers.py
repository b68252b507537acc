"""Requests of every kind that writes text, and all that can be compared of their answers: from a server, whole or
streamed, and from offline runs of the same bodies, one at a time.

A request is a path and a JSON body with a seed and `"receipt": true`, by which the answer tells its token ids.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from pellucid import LLM, StructuredOutputs
from pellucid.api.anthropic_requests import parse_messages
from pellucid.api.anthropic_responses import message_body
from pellucid.api.anthropic_schemas import MESSAGES, MESSAGES_BODY
from pellucid.api.openai_requests import parse_request
from pellucid.api.openai_responses import response_body, server_receipt
from pellucid.api.openai_schemas import CHAT, CHAT_BODY, COMPLETION_BODY, COMPLETIONS
from pellucid.api.responses_answers import begun, ended
from pellucid.api.responses_requests import parse_responses
from pellucid.api.responses_schemas import RESPONSES, RESPONSES_BODY
from pellucid.engine.outputs import RequestOutput
from pellucid.errors import InvalidParameter
from pellucid.tools.verify_workload import sampler_settings

BODIES = {COMPLETIONS: COMPLETION_BODY, CHAT: CHAT_BODY, MESSAGES: MESSAGES_BODY, RESPONSES: RESPONSES_BODY}
PATHS = (COMPLETIONS, COMPLETIONS, COMPLETIONS, CHAT, CHAT, MESSAGES, RESPONSES)
CONTESTS = {"best_of", "beam_width"}  # which have no stream
NO_CALLS = CONTESTS | {"structured_outputs", "stop", "stop_regex", "min_tokens", "bad_words", "allowed_token_ids"}
WORDS = ["Once", "upon", "a", "time", "the", "dog", "and", "Lily", "said", "they", "were", "happy", "in", "big", "park"]
CALL = {
    "name": "look",
    "description": "Look to one side",
    "schema": {
        "type": "object",
        "properties": {"where": {"enum": ["left", "right"]}},
        "required": ["where"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True)
class Ask:
    path: str
    body: dict[str, Any]


Comparable = dict[str, Any]
"""What must be the same: prompts and answers as token ids, log-probabilities, text, calls, and why each ended."""


def settings_for(llm: LLM) -> list[dict[str, Any]]:
    """Every sampling parameter and every kind of form at work in at least one, as JSON; forms that the model's
    vocabulary cannot spell are left out."""
    found = []
    for own in sampler_settings(llm._model.config.vocab_size):
        if "logits_processors" in own:  # Python functions
            continue
        form = own.get("structured_outputs")
        if form is not None:
            own = {**own, "structured_outputs": _given(form)}
            try:
                llm.generate("a", parse_request(COMPLETIONS, {"prompt": "a", "max_tokens": 1, **own}).params)
            except InvalidParameter:
                continue
        found.append(json.loads(json.dumps(own, default=list)))
    return found


def _given(form: StructuredOutputs) -> dict[str, Any]:
    return {f.name: value for f in fields(form) if (value := getattr(form, f.name)) not in (None, False)}


def random_asks(count: int, rng: random.Random, settings: Sequence[dict[str, Any]], *, calls: bool) -> list[Ask]:
    """All `settings` in turn, through all four paths; two thirds of the prompts begin like others.

    calls: some must call a tool, which needs a vocabulary with braces.
    """
    beginnings = [_text(rng, 40) for _ in range(4)]
    return [_random_ask(rng, settings[i % len(settings)], beginnings, calls) for i in range(count)]


def _random_ask(rng: random.Random, own: dict[str, Any], beginnings: list[str], calls: bool) -> Ask:
    path = rng.choice([path for path in PATHS if own.keys() <= BODIES[path]["properties"].keys() | {"stop"}])
    prompt = (rng.choice(beginnings) if rng.random() < 2 / 3 else "") + _text(rng, 20)
    most, contest = rng.randint(4, 40), not own.keys().isdisjoint(CONTESTS)
    body: dict[str, Any] = {
        **own,
        "seed": rng.randrange(2**64),
        "receipt": True,
        "priority": rng.choice([0, 0, 0, -1, 1]),
        "cache_salt": rng.choice(["", "", "salt"]),
    }
    if "structured_outputs" not in own and rng.random() < 0.5:
        body["ignore_eos"] = True
    if rng.random() < 0.5 and not contest:
        body["stream"] = True
    if path in (CHAT, COMPLETIONS):
        body |= {"n": rng.choice([1, 1, 1, 2, 3]), "max_tokens": most}
        top = rng.randint(0, 3)
        body |= {"logprobs": True, "top_logprobs": top} if path == CHAT else {"logprobs": top}
        if "beam_width" not in own and rng.random() < 0.25:
            body["prompt_logprobs"] = 2
    said = [{"role": "user", "content": prompt}]
    if path == COMPLETIONS:
        return Ask(path, body | {"prompt": rng.choice([prompt, prompt, [prompt, "The dog"], [[5, 6, 7], [8, 9]]])})
    if rng.random() < 0.3:
        said = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Lily."}, *said]
    if path == CHAT:
        body |= {"messages": [{"role": "system", "content": "Tell stories."}, *said] if rng.random() < 0.3 else said}
    elif path == MESSAGES:
        body |= {"messages": said, "max_tokens": most}
        body |= {"stop_sequences": body.pop("stop")} if "stop" in body else {}
    else:
        body |= {"input": said, "max_output_tokens": most, "store": False}
    if calls and own.keys().isdisjoint(NO_CALLS) and rng.random() < 0.5:
        body |= _with_a_call(path) | {"tool_prompt": True, "ignore_eos": False}
    return Ask(path, body)


def _text(rng: random.Random, most: int) -> str:
    return "".join(f" {word}" for word in rng.choices(WORDS, k=rng.randint(1, most)))


def _with_a_call(path: str) -> dict[str, Any]:
    function = {"name": CALL["name"], "description": CALL["description"], "parameters": CALL["schema"], "strict": True}
    if path == CHAT:
        return {"tools": [{"type": "function", "function": function}], "tool_choice": "required", "max_tokens": 60}
    if path == RESPONSES:
        return {"tools": [{"type": "function", **function}], "tool_choice": "required", "max_output_tokens": 60}
    tool = {"name": CALL["name"], "description": CALL["description"], "input_schema": CALL["schema"], "strict": True}
    return {"tools": [tool], "tool_choice": {"type": "any"}, "max_tokens": 60}


def offline(llm: LLM, ask: Ask) -> Comparable:
    """What `ask` must be answered."""
    head = {"key": "", "model": ""}
    if ask.path in (CHAT, COMPLETIONS):
        asked = parse_request(ask.path, ask.body)
        if ask.path == CHAT:
            results = llm.chat(asked.prompts[0], asked.params, progress=False, **asked.chat)
        else:
            results = [llm.generate([p], asked.params, progress=False)[0] for p in asked.prompts]
        return comparable(ask.path, response_body(ask.path, results, created=0, **head) | _receipts(results))
    if ask.path == MESSAGES:
        message = parse_messages(ask.body)
        said = message.conversation
        tools: dict[str, Any] = {"tools": said.tools, "tool_choice": said.tool_choice}
        tools |= {"parallel_tool_calls": said.parallel_tool_calls, **message.chat}
        results = llm.chat(said.messages, message.params, progress=False, **tools)
        return comparable(ask.path, message_body(results[0], **head) | _receipts(results))
    response = parse_responses(ask.body)
    results = llm.chat(response.conversation([]), response.params, progress=False, **response.chat)
    return comparable(ask.path, ended(begun(response.echo, created=0, **head), results[0]) | _receipts(results))


def _receipts(results: Sequence[RequestOutput]) -> dict[str, Any]:
    receipts = [server_receipt(result) for result in results]
    return {"receipt": receipts if len(receipts) > 1 else receipts[0]}


def comparable(path: str, body: dict[str, Any]) -> Comparable:
    """Of a whole answer's body."""
    receipts = body["receipt"] if isinstance(body["receipt"], list) else [body["receipt"]]
    found: Comparable = {
        "prompts": [receipt["prompt_token_ids"] for receipt in receipts],
        "prompt_logprobs": [receipt["prompt_logprobs"] for receipt in receipts],
        "answers": [output["token_ids"] for receipt in receipts for output in receipt["outputs"]],
    }
    if path in (CHAT, COMPLETIONS):
        return found | {"choices": [_choice(choice) for choice in body["choices"]]}
    if path == MESSAGES:
        parts = [part.get("text", part.get("input")) for part in body["content"]]
        return found | {"parts": parts, "ended": (body["stop_reason"], body["stop_sequence"])}
    parts = [item.get("arguments") or [part["text"] for part in item["content"]] for item in body["output"]]
    return found | {"parts": parts, "ended": body["status"]}


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    if "text" in choice:
        return {"text": choice["text"], "logprobs": choice["logprobs"], "ended": choice["finish_reason"]}
    message, logprobs = choice["message"], choice["logprobs"]
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]
    return {
        "text": message["content"] or "",
        "calls": calls,
        "logprobs": logprobs["content"] if logprobs else [],
        "ended": choice["finish_reason"],
    }


def comparable_stream(path: str, events: Sequence[bytes], ask: Ask) -> Comparable:
    """Of the data of a stream's events."""
    values = [json.loads(data) for data in events if data != b"[DONE]"]
    if path == RESPONSES:
        told = "".join(v["delta"] for v in values if v["type"] == "response.output_text.delta")
        whole = comparable(path, values[-1]["response"])
        said = "".join(text for part in whole["parts"] if isinstance(part, list) for text in part)
        assert told == said, "the pieces are the whole"
        return whole
    if path == MESSAGES:
        return _message_of(values)
    receipt = next(value["receipt"] for value in values if "receipt" in value)
    prompts = len(receipt) if isinstance(receipt, list) else 1
    choices = [_joined(path, i, values) for i in range(prompts * ask.body.get("n", 1))]
    return comparable(path, {"choices": choices, "receipt": receipt})


def _joined(path: str, index: int, values: Sequence[Any]) -> dict[str, Any]:
    """One choice, as the whole answer would have it."""
    pieces = [choice for value in values for choice in value["choices"] if choice["index"] == index]
    [reason] = [piece["finish_reason"] for piece in pieces if piece["finish_reason"]]
    logprobs: dict[str, Any] = {}
    for piece in pieces:
        for name, more in (piece["logprobs"] or {}).items():
            logprobs[name] = logprobs.get(name, []) + more if more is not None else None
    joined: dict[str, Any] = {"index": index, "logprobs": logprobs or None, "finish_reason": reason}
    if path == COMPLETIONS:
        return joined | {"text": "".join(piece["text"] for piece in pieces)}
    calls: dict[int, dict[str, str]] = {}
    for piece in pieces:
        for call in piece["delta"].get("tool_calls", ()):
            own = calls.setdefault(call["index"], {"name": call["function"].get("name"), "arguments": ""})
            own["arguments"] += call["function"]["arguments"]
    text = "".join(piece["delta"].get("content") or "" for piece in pieces)
    return joined | {"message": {"content": text, "tool_calls": [{"function": call} for call in calls.values()]}}


def _message_of(values: Sequence[Any]) -> Comparable:
    parts: list[str] = []
    kinds: list[str] = []
    for value in values:
        if value["type"] == "content_block_start":
            kinds.append(value["content_block"]["type"])
            parts.append("")
        elif value["type"] == "content_block_delta":
            parts[value["index"]] += value["delta"].get("text", value["delta"].get("partial_json"))
    [end] = [value for value in values if value["type"] == "message_delta"]
    content = [
        {"text": part} if kind == "text" else {"input": json.loads(part)}
        for kind, part in zip(kinds, parts, strict=True)
        if kind == "text" or _is_json(part)
    ]
    return comparable(MESSAGES, {"content": content, "receipt": end["receipt"], **end["delta"]})


def _is_json(text: str) -> bool:
    """A call that was cut off is not in a whole answer."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True

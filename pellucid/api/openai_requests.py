"""OpenAI's request bodies as what the engine understands. Strict: a field that would be ignored is refused by name.

Source: OpenAI API reference, "Create chat completion" and "Create completion". Every field of SamplingParams may stand
in a body, too, under its own name, beside those of openai_schemas.py. A field that is null is not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pellucid.api.body import checked_salt
from pellucid.api.body import prompts as checked_prompts
from pellucid.api.openai_schemas import (
    CHAT,
    COMPLETION_MAX_TOKENS,
    COMPLETIONS,
    MAX_PRIORITY,
    MAX_TOP_LOGPROBS,
    REFUSED,
    fields_of,
)
from pellucid.errors import InvalidParameter, ModelNotFound, UnsupportedParameter
from pellucid.fields import boolean, integer, refuse_unknown, show
from pellucid.sampling import SamplingParams
from pellucid.structured_outputs import StructuredOutputs

_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    "store": (False,),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
}
_ABOUT_THE_CALLER = {"user": str, "metadata": dict, "safety_identifier": str, "prompt_cache_key": str}
_CHAT_OPTIONS: dict[str, Any] = {
    "tools": None,
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "tool_parser": None,
    "tool_prompt": None,
    "reasoning_parser": None,
    "add_generation_prompt": True,
    "chat_template_kwargs": None,
}


@dataclass(frozen=True)
class OpenAIRequest:
    """One body, checked. `prompts` of a chat are one conversation. `stream_usage`: the stream ends with the usage.

    `chat` has what `LLM.chat` takes beside messages and parameters; empty for a completion.
    """

    endpoint: str
    model: str | None
    prompts: list[Any]
    params: SamplingParams
    stream: bool = False
    stream_usage: bool = False
    priority: int | None = None
    cache_salt: str = ""
    receipt: bool = False
    chat: Mapping[str, Any] = field(default_factory=dict)

    def require_model(self, served: tuple[str, ...]) -> None:
        """Raises ModelNotFound when the body names a model that is none of these."""
        if self.model is not None and self.model not in served:
            raise ModelNotFound(
                f"model: {self.model[:200]!r} is not served here; ask for {served[0]!r} or leave the field away"
            )


def parse_request(endpoint: str, body: Mapping[str, Any]) -> OpenAIRequest:
    """The request in a JSON object sent to `endpoint`. Raises InvalidParameter and UnsupportedParameter."""
    if endpoint not in (CHAT, COMPLETIONS):
        raise UnsupportedParameter("url", f"{show(endpoint)} is not supported; use {CHAT} or {COMPLETIONS}")
    fields = {name: value for name, value in body.items() if value is not None}
    refuse_unknown(fields, fields_of(endpoint), REFUSED, "field")
    model = fields.pop("model", None)
    if model is not None and not isinstance(model, str):
        raise InvalidParameter("model", f"expected the name of a model, got {show(model)}")
    _take_what_changes_nothing(fields)
    stream, stream_usage = _take_stream(fields)
    priority = fields.pop("priority", None)
    if priority is not None:
        priority = integer("priority", priority, -MAX_PRIORITY, MAX_PRIORITY)
    cache_salt = checked_salt(fields.pop("cache_salt", ""))
    receipt = boolean("receipt", fields.pop("receipt", False))
    if "response_format" in fields:
        _take_response_format(fields)
    fields = sampling_fields(fields)
    chat: dict[str, Any] = {}
    if endpoint == CHAT:
        prompts = [_taken(fields, "messages")]
        chat = _take_chat_options(fields)
        _take_chat_logprobs(fields)
        if "max_completion_tokens" in fields:
            most = fields.pop("max_completion_tokens")
            if fields.setdefault("max_tokens", most) != most:
                raise InvalidParameter("max_completion_tokens", "differs from max_tokens; give one of them")
    else:
        prompts = checked_prompts("prompt", _taken(fields, "prompt"))
        fields.setdefault("max_tokens", COMPLETION_MAX_TOKENS)
        _take_logprobs_of_the_prompt(fields, stream)
    params = SamplingParams(**fields)
    if stream and params.is_contest:
        raise UnsupportedParameter("stream", "best_of and beam_width know no answer before the end; leave it out")
    return OpenAIRequest(endpoint, model, prompts, params, stream, stream_usage, priority, cache_salt, receipt, chat)


def sampling_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields`, where what JSON writes otherwise than SamplingParams is as SamplingParams has it."""
    found = dict(fields)
    if isinstance(found.get("structured_outputs"), Mapping):
        found["structured_outputs"] = StructuredOutputs(**found["structured_outputs"])
    if "logit_bias" in found:
        found["logit_bias"] = _logit_bias(found["logit_bias"])
    return found


def with_seed(params: SamplingParams, seed: int) -> SamplingParams:
    """`params` with `seed` where they have none."""
    return params if params.seed is not None else replace(params, seed=seed)


def _taken(fields: dict[str, Any], name: str) -> Any:
    if name not in fields:
        raise InvalidParameter(name, "is missing")
    return fields.pop(name)


def _object(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidParameter(name, f"expected an object, got {show(value)}")
    return value


def _take_what_changes_nothing(fields: dict[str, Any]) -> None:
    for name, kind in _ABOUT_THE_CALLER.items():
        if not isinstance(fields.pop(name, kind()), kind):
            raise InvalidParameter(name, f"expected {'text' if kind is str else 'an object'}")
    for name, allowed in _WITHOUT_EFFECT.items():
        if name in fields and (value := fields.pop(name)) not in allowed:
            raise UnsupportedParameter(name, f"{show(value)} is not supported; remove it or say {allowed[0]!r}")


def _take_stream(fields: dict[str, Any]) -> tuple[bool, bool]:
    stream = boolean("stream", fields.pop("stream", False))
    options = dict(_object("stream_options", fields.pop("stream_options", {})))
    if options and not stream:
        raise InvalidParameter("stream_options", "needs stream = true")
    usage = boolean("stream_options.include_usage", options.pop("include_usage", False))
    for name in options:
        raise UnsupportedParameter(f"stream_options.{name[:80]}", "is not supported; remove it")
    return stream, usage


def _take_response_format(fields: dict[str, Any]) -> None:
    format = _object("response_format", fields.pop("response_format"))
    kind = format.get("type")
    allowed = {
        "text": (), "json_object": (), "json_schema": ("json_schema",), "regex": ("regex",),
        "grammar": ("grammar", "syntax"),
    }  # fmt: skip
    if not isinstance(kind, str) or kind not in allowed:
        raise InvalidParameter("response_format.type", f"expected one of {', '.join(allowed)}, got {show(kind)}")
    _refuse_others("response_format", format, ("type", *allowed[kind]))
    if kind == "text":
        return
    if "structured_outputs" in fields:
        raise InvalidParameter("response_format", "and structured_outputs are both given; give one of them")
    if kind == "json_object":
        form = StructuredOutputs(json_object=True)
    elif kind == "json_schema":
        schema = _object("response_format.json_schema", format.get("json_schema"))
        _refuse_others("response_format.json_schema", schema, ("name", "description", "schema", "strict"))
        form = StructuredOutputs(json=_object("response_format.json_schema.schema", schema.get("schema")))
    elif kind == "regex":
        form = StructuredOutputs(regex=format.get("regex", ""))
    elif format.get("syntax", "gbnf") == "gbnf":
        form = StructuredOutputs(gbnf=format.get("grammar", ""))
    elif format["syntax"] == "lark":
        form = StructuredOutputs(grammar=format.get("grammar", ""))
    else:
        raise InvalidParameter("response_format.syntax", f"expected gbnf or lark, got {show(format['syntax'])}")
    fields["structured_outputs"] = form.asked_by("response_format")


def _refuse_others(where: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise InvalidParameter(f"{where}.{name[:80]}", f"there is no such field; known: {', '.join(known)}")


def _take_chat_options(fields: dict[str, Any]) -> dict[str, Any]:
    options = {name: fields.pop(name, default) for name, default in _CHAT_OPTIONS.items()}
    for name in ("parallel_tool_calls", "add_generation_prompt"):
        boolean(name, options[name])
    if options["tool_prompt"] is not None:
        boolean("tool_prompt", options["tool_prompt"])
    for name in ("tool_parser", "reasoning_parser"):
        if not isinstance(options[name], str | None):
            raise InvalidParameter(name, f"expected a name, got {show(options[name])}")
    if not isinstance(options["tools"], list | None):
        raise InvalidParameter("tools", f"expected a list of tools, got {show(options['tools'])}")
    if options["chat_template_kwargs"] is not None:
        _object("chat_template_kwargs", options["chat_template_kwargs"])
    return options


def _take_chat_logprobs(fields: dict[str, Any]) -> None:
    """A chat's two fields as the one of SamplingParams."""
    wanted = boolean("logprobs", fields.pop("logprobs", False))
    if "top_logprobs" in fields and not wanted:
        raise InvalidParameter("top_logprobs", "needs logprobs = true")
    if wanted:
        fields["logprobs"] = integer("top_logprobs", fields.pop("top_logprobs", 0), 0, MAX_TOP_LOGPROBS)


def _take_logprobs_of_the_prompt(fields: dict[str, Any], stream: bool) -> None:
    """OpenAI's log-probabilities are of all text: with `echo`, of the prompt's, too."""
    if not fields.get("echo") or "logprobs" not in fields:
        return
    if stream:
        raise UnsupportedParameter(
            "echo", "together with logprobs is not supported in a stream; remove one of the three"
        )
    if fields.setdefault("prompt_logprobs", fields["logprobs"]) != fields["logprobs"]:
        raise InvalidParameter("prompt_logprobs", "differs from logprobs, which with echo are of the prompt, too")


def _logit_bias(value: Any) -> dict[int, Any]:
    """JSON knows no numbers as keys."""
    try:
        return {int(token): bias for token, bias in _object("logit_bias", value).items()}
    except ValueError:
        raise InvalidParameter("logit_bias", "expected token ids, written as text, as its names") from None

"""OpenAI's request bodies as what the engine understands. Strict: a field that would be ignored is refused by name.

Source: OpenAI API reference, "Create chat completion" and "Create completion". Every field of SamplingParams may stand
in a body, too, under its own name, beside `priority`, `cache_salt` and, for a chat, `chat_template_kwargs` and
`add_generation_prompt`. A field that is null is not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pellucid.errors import InvalidParameter, ModelNotFound, UnsupportedParameter
from pellucid.fields import boolean, integer, show
from pellucid.sampling import SamplingParams
from pellucid.structured_outputs import StructuredOutputs

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
COMPLETION_MAX_TOKENS = 16  # OpenAI's default for completions; a chat's answer may fill the context
MAX_TOP_LOGPROBS = 20
MAX_PROMPTS = 2048

# OpenAI's names that are not honoured: refused, never ignored.
_REFUSED = frozenset({
    "audio", "function_call", "functions", "modalities", "parallel_tool_calls", "prediction", "reasoning_effort",
    "suffix", "tool_choice", "tools", "verbosity", "web_search_options",
})  # fmt: skip
_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {"store": (False,), "service_tier": ("auto", "default")}
_ABOUT_THE_CALLER = {"user": str, "metadata": dict, "safety_identifier": str}  # they change no answer


@dataclass(frozen=True)
class OpenAIRequest:
    """One body, checked. `prompts` of a chat are one conversation. `stream_usage`: the stream ends with the usage."""

    endpoint: str
    model: str | None
    prompts: list[Any]
    params: SamplingParams
    stream: bool
    stream_usage: bool
    priority: int
    cache_salt: str
    template: Mapping[str, Any]

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
    model = fields.pop("model", None)
    if model is not None and not isinstance(model, str):
        raise InvalidParameter("model", f"expected the name of a model, got {show(model)}")
    _take_what_changes_nothing(fields)
    stream, stream_usage = _take_stream(fields)
    priority, cache_salt = fields.pop("priority", 0), fields.pop("cache_salt", "")
    if "response_format" in fields:
        _take_response_format(fields)
    if isinstance(fields.get("structured_outputs"), Mapping):
        fields["structured_outputs"] = StructuredOutputs(**fields["structured_outputs"])
    if "logit_bias" in fields:
        fields["logit_bias"] = _logit_bias(fields["logit_bias"])
    template = {}
    if endpoint == CHAT:
        prompts = [_taken(fields, "messages")]
        template = {
            "add_generation_prompt": boolean("add_generation_prompt", fields.pop("add_generation_prompt", True)),
            "chat_template_kwargs": _object("chat_template_kwargs", fields.pop("chat_template_kwargs", {})),
        }
        _take_chat_logprobs(fields)
        if "max_completion_tokens" in fields:
            most = fields.pop("max_completion_tokens")
            if fields.setdefault("max_tokens", most) != most:
                raise InvalidParameter("max_completion_tokens", "differs from max_tokens; give one of them")
    else:
        prompts = _prompts(_taken(fields, "prompt"))
        fields.setdefault("max_tokens", COMPLETION_MAX_TOKENS)
    return OpenAIRequest(
        endpoint, model, prompts, SamplingParams(**fields), stream, stream_usage, priority, cache_salt, template
    )


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
    for name in _REFUSED & fields.keys():
        raise UnsupportedParameter(name, "is not supported; remove it")
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
    if kind == "text":
        return
    if "structured_outputs" in fields:
        raise InvalidParameter("response_format", "and structured_outputs are both given; give one of them")
    if kind == "json_object":
        fields["structured_outputs"] = StructuredOutputs(json_object=True)
    elif kind == "json_schema":
        schema = _object("response_format.json_schema", format.get("json_schema"))
        given = _object("response_format.json_schema.schema", schema.get("schema"))
        fields["structured_outputs"] = StructuredOutputs(json=given)
    else:
        raise InvalidParameter("response_format.type", f"expected text, json_object or json_schema, got {show(kind)}")


def _take_chat_logprobs(fields: dict[str, Any]) -> None:
    """A chat's two fields as the one of SamplingParams."""
    wanted = boolean("logprobs", fields.pop("logprobs", False))
    if "top_logprobs" in fields and not wanted:
        raise InvalidParameter("top_logprobs", "needs logprobs = true")
    if wanted:
        fields["logprobs"] = integer("top_logprobs", fields.pop("top_logprobs", 0), 0, MAX_TOP_LOGPROBS)


def _logit_bias(value: Any) -> dict[int, Any]:
    """JSON knows no numbers as keys."""
    try:
        return {int(token): bias for token, bias in _object("logit_bias", value).items()}
    except ValueError:
        raise InvalidParameter("logit_bias", "expected token ids, written as text, as its names") from None


def _prompts(value: Any) -> list[Any]:
    """One text, one list of token ids, or a list of either."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise InvalidParameter("prompt", f"expected text, token ids, or a list of either, got {show(value)}")
    prompts: list[Any] = value if isinstance(value[0], str | list) else [value]
    if len(prompts) > MAX_PROMPTS:
        raise InvalidParameter("prompt", f"expected at most {MAX_PROMPTS} prompts, got {len(prompts)}")
    return prompts

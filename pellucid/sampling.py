"""SamplingParams: what one request asks of the sampler, validated once and then trusted everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Self

from pellucid.errors import InvalidParameter
from pellucid.fields import boolean, integer, real, refuse_unknown, show

MAX_TOKENS = 2**31 - 1
MAX_TOKEN_ID = 2**31 - 1
MAX_N = 128
MAX_LOGPROBS = 100
MAX_LOGIT_BIAS = 65_536
MAX_STOP_STRINGS = 64
MAX_STOP_LENGTH = 1_024
MAX_STOP_TOKENS = 1_024
MIN_TEMPERATURE = 1e-3

# Names that users of this field know and that we do not honour yet: refused, never ignored.
PLANNED = frozenset({
    "typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "dry_multiplier", "dry_base",
    "dry_allowed_length", "dry_sequence_breakers", "mirostat", "mirostat_tau", "mirostat_eta", "dynatemp_range",
    "dynatemp_exponent", "repeat_last_n", "no_repeat_ngram_size", "allowed_token_ids", "bad_words", "best_of",
    "use_beam_search", "beam_width", "length_penalty", "early_stopping", "stop_regex", "samplers",
    "logits_processors", "echo", "guided_decoding", "structured_outputs", "response_format", "grammar",
    "truncate_prompt_tokens", "detokenize", "spaces_between_special_tokens",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to choose the tokens of one request. Keyword arguments only; mixed freely within one batch.

    A logit passes, in this order: logit_bias, repetition_penalty, frequency_penalty, presence_penalty, min_tokens (end
    tokens masked), temperature, top_k, top_p, min_p; then one token is drawn. `generation_config.json` of a model is
    never applied behind your back: what is not given has the default shown here.

    temperature: 0 takes the most likely token (the smaller id of equals); else 0.001 to 100.
    top_k: keep the k most likely tokens; 0 or -1 keeps all.
    top_p: keep the smallest set of most likely tokens whose probability reaches top_p, in (0, 1] (nucleus sampling,
        Holtzman et al. 2019), after top_k.
    min_p: keep tokens at least min_p times as likely as the most likely one, in [0, 1].
    repetition_penalty: divides positive and multiplies negative logits of tokens in the prompt or the answer so far
        (CTRL, Keskar et al. 2019), in [0.01, 100]; 1 is off.
    frequency_penalty, presence_penalty: subtracted from a token's logit for each time, or once if, it is in the
        answer so far (OpenAI's definition), in [-2, 2].
    logit_bias: token id → number in [-100, 100] added to its logit.
    seed: 0 to 2^64 - 1. The same request with the same seed gives the same answer, whatever else runs. None draws one
        from the operating system; the receipt names it.
    n: independent answers, 1 to 128. Answer i with the same seed is always the same.
    stop: string or strings that end the answer; the text before the first one to be completed is returned.
    stop_token_ids: token ids that end the answer, beside the model's own end tokens.
    min_tokens: end tokens cannot be chosen, and stop strings do not end the answer, before this many tokens.
    max_tokens: end after this many tokens (finish_reason "length"). None: until the context is full.
    ignore_eos: the model's own end tokens do not end the answer.
    logprobs: None, or how many of the most likely tokens to report at each position beside the chosen one, up to 100.
        They are log-softmax values of the model's raw logits, before any of the above.
    prompt_logprobs: the same for the prompt's tokens.
    skip_special_tokens: leave control tokens out of the text.
    include_stop_str_in_output: keep the stop string, or the text of the stop token, at the end of the text.

    Raises InvalidParameter, and UnsupportedParameter for a known field that is not implemented; both name the field.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    n: int = 1
    stop: str | Sequence[str] = field(default=())
    stop_token_ids: Sequence[int] = field(default=())
    min_tokens: int = 0
    max_tokens: int | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    def __new__(cls, **given: object) -> Self:
        # Names are checked before the generated __init__ sees them, so that an unsupported field is refused by name.
        refuse_unknown(given, (f.name for f in fields(cls)), PLANNED, "sampling parameter")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        self._set("temperature", _temperature(self.temperature))
        self._set("top_k", max(0, integer("top_k", self.top_k, -1, MAX_TOKEN_ID)))
        self._set("top_p", real("top_p", self.top_p, 0.0, 1.0, open_low=True))
        self._set("min_p", real("min_p", self.min_p, 0.0, 1.0))
        self._set("repetition_penalty", real("repetition_penalty", self.repetition_penalty, 0.01, 100.0))
        self._set("presence_penalty", real("presence_penalty", self.presence_penalty, -2.0, 2.0))
        self._set("frequency_penalty", real("frequency_penalty", self.frequency_penalty, -2.0, 2.0))
        self._set("logit_bias", _logit_bias(self.logit_bias))
        if self.seed is not None:
            self._set("seed", integer("seed", self.seed, 0, 2**64 - 1))
        self._set("n", integer("n", self.n, 1, MAX_N))
        self._set("stop", _stop(self.stop))
        self._set("stop_token_ids", _stop_token_ids(self.stop_token_ids))
        if self.max_tokens is not None:
            self._set("max_tokens", integer("max_tokens", self.max_tokens, 1, MAX_TOKENS))
        most = MAX_TOKENS if self.max_tokens is None else self.max_tokens
        self._set("min_tokens", integer("min_tokens", self.min_tokens, 0, most))
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                self._set(name, integer(name, getattr(self, name), 0, MAX_LOGPROBS))
        for name in ("ignore_eos", "skip_special_tokens", "include_stop_str_in_output"):
            boolean(name, getattr(self, name))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # frozen for everybody but the validation

    def as_dict(self) -> dict[str, object]:
        """The effective values, for receipts and logs."""
        return asdict(self)


def _temperature(value: object) -> float:
    value = real("temperature", value, 0.0, 100.0)
    if 0 < value < MIN_TEMPERATURE:
        raise InvalidParameter(
            "temperature",
            f"{value:g} is too close to 0; use 0 for the most likely token, or at least {MIN_TEMPERATURE:g}",
        )
    return value


def _logit_bias(value: object) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidParameter("logit_bias", f"expected a mapping from token id to number, got {show(value)}")
    if len(value) > MAX_LOGIT_BIAS:
        raise InvalidParameter("logit_bias", f"expected at most {MAX_LOGIT_BIAS} entries, got {len(value)}")
    return {
        integer("logit_bias", key, 0, MAX_TOKEN_ID): real("logit_bias", number, -100.0, 100.0)
        for key, number in value.items()
    }


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = (value,) if isinstance(value, str) else value
    if not isinstance(stops, Sequence):
        raise InvalidParameter("stop", f"expected a string or a list of strings, got {show(value)}")
    if len(stops) > MAX_STOP_STRINGS:
        raise InvalidParameter("stop", f"expected at most {MAX_STOP_STRINGS} strings, got {len(stops)}")
    for stop in stops:
        if not isinstance(stop, str):
            raise InvalidParameter("stop", f"expected strings, got {show(stop)}")
        if not 1 <= len(stop) <= MAX_STOP_LENGTH:
            raise InvalidParameter("stop", f"a stop string has 1 to {MAX_STOP_LENGTH} characters, got {len(stop)}")
        if any("\ud800" <= c <= "\udfff" for c in stop):
            raise InvalidParameter(
                "stop", f"{stop!r} holds half a character (a lone surrogate) and can never be matched"
            )
    return tuple(stops)


def _stop_token_ids(value: object) -> tuple[int, ...]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidParameter("stop_token_ids", f"expected a list of token ids, got {show(value)}")
    if len(value) > MAX_STOP_TOKENS:
        raise InvalidParameter("stop_token_ids", f"expected at most {MAX_STOP_TOKENS} ids, got {len(value)}")
    return tuple(integer("stop_token_ids", token, 0, MAX_TOKEN_ID) for token in value)

"""SamplingParams: what one request asks of the sampler, validated once and then trusted everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from pellucid import sampling_fields
from pellucid.errors import InvalidParameter
from pellucid.fields import boolean, integer, real, refuse_unknown, show
from pellucid.sampling_fields import MAX_TOKEN_ID, MAX_TOKENS, SAMPLERS
from pellucid.structured_outputs import StructuredOutputs

MAX_N = 128
MAX_BEAM_WIDTH = 64
MAX_LOGPROBS = 100
MAX_STOP_STRINGS = 64
MAX_STOP_LENGTH = 1_024
MAX_WORDS = 1_024

# What switches each of them on, with the value at which it is off.
_OFF: dict[str, dict[str, float]] = {
    "penalties": {"repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0},
    "dry": {"dry_multiplier": 0},
    "temperature": {"temperature": 1, "dynatemp_range": 0},
    "top_n_sigma": {"top_n_sigma": 0},
    "top_k": {"top_k": 0},
    "typical_p": {"typical_p": 1},
    "top_p": {"top_p": 1},
    "min_p": {"min_p": 0},
    "xtc": {"xtc_probability": 0},
}

# What beam search heeds.
_WITH_BEAMS = {
    "beam_width", "length_penalty", "n", "temperature", "seed", "max_tokens", "stop_token_ids", "ignore_eos",
    "logprobs", "skip_special_tokens", "visible_token_ids", "include_stop_str_in_output",
    "echo",
}  # fmt: skip

# Names that users of this field know and that we do not honour yet: refused, never ignored.
PLANNED = frozenset({
    "use_beam_search", "early_stopping", "guided_decoding", "response_format", "grammar",
    "truncate_prompt_tokens", "detokenize", "spaces_between_special_tokens",
})  # fmt: skip

LogitsProcessor = Callable[[Sequence[int], Sequence[int], Any], Any]
"""(prompt token ids, answer's token ids so far, logits: float32 array [V]) → logits, or None if changed in place."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to choose the tokens of one request. Keyword arguments only; mixed freely within one batch.

    A logit passes, in this order: logits_processors; logit_bias; what forbids tokens (allowed_token_ids, bad_words,
    no_repeat_ngram_size, min_tokens); the samplers in the order of `samplers`; mirostat; then one token is drawn.
    docs/sampling.md defines each of them. `generation_config.json` of a model is never applied behind your back: what
    is not given has the default shown here.

    temperature: 0 takes the most likely token (the smaller id of equals); else 0.001 to 100.
    top_k: keep the k most likely tokens; 0 or -1 keeps all.
    top_p: keep the smallest set of most likely tokens whose probability reaches top_p, in (0, 1] (nucleus sampling,
        Holtzman et al. 2019), after top_k.
    min_p: keep tokens at least min_p times as likely as the most likely one, in [0, 1].
    typical_p: keep the smallest set of tokens whose surprise is closest to the entropy and whose probability reaches
        typical_p, in (0, 1] (locally typical sampling, Meister et al. 2023); 1 is off.
    top_n_sigma: keep tokens whose logit is within top_n_sigma standard deviations of the largest (Tang et al. 2024), in
        [0, 100]; 0 is off.
    xtc_probability, xtc_threshold: with this probability, take away all tokens that have at least the threshold's
        probability except the least likely of them ("exclude top choices", p-e-w 2024). In [0, 1] and (0, 0.5].
    dynatemp_range, dynatemp_exponent: let the temperature go from temperature - range to temperature + range with the
        (entropy / largest possible entropy) ^ exponent. In [0, temperature] and [0.01, 100]; a range of 0 is off.
    mirostat, mirostat_tau, mirostat_eta: 1 or 2 keep the surprise of the answer near tau bits a token, in place of
        top_k and the like (Basu et al. 2021); eta is how fast. 0 is off; tau in (0, 100], eta in (0, 1].
    samplers: the samplers that have an order, in the order wanted. One that is switched on must be in it.
    repetition_penalty: divides positive and multiplies negative logits of tokens in the prompt or the answer so far
        (CTRL, Keskar et al. 2019), in [0.01, 100]; 1 is off.
    frequency_penalty, presence_penalty: subtracted from a token's logit for each time, or once if, it is in the
        answer so far (OpenAI's definition), in [-2, 2].
    repeat_last_n: how many of the last tokens these three look at; -1: all.
    dry_multiplier, dry_base, dry_allowed_length, dry_sequence_breakers: a token that would go on with a repetition of
        length n ≥ allowed_length loses multiplier · base ^ (n - allowed_length); no repetition goes across a text of
        sequence_breakers ("don't repeat yourself", p-e-w 2024). A multiplier of 0 is off.
    no_repeat_ngram_size: forbid tokens that would complete so many tokens that are in prompt or answer already.
    allowed_token_ids: forbid all other tokens.
    bad_words: texts that the answer must not hold, spelled in the tokens that the tokenizer gives for them, with and
        without a space before them (vLLM's definition). Other spellings of the same text are not found.
    logit_bias: token id → number in [-100, 100] added to its logit.
    seed: 0 to 2^64 - 1. The same request with the same seed gives the same answer, whatever else runs. None draws one
        from the operating system; the receipt names it.
    n: independent answers, 1 to 128. Answer i with the same seed is always the same.
    best_of: how many answers to make for the n that are returned: those of the highest cumulative log-probability,
        best first (OpenAI, vLLM). A stream has them at its end. None: n.
    beam_width: beam search for the n most probable answers with so many sequences at a time, up to 64, in place of
        sampling; docs/sampling.md has the definition. A stream has them at its end. 0 is off.
    length_penalty: with beam search, the score is the cumulative log-probability / (number of tokens) ^ length_penalty;
        in [-10, 10].
    stop: string or strings that end the answer; the text before the first one to be completed is returned.
    stop_regex: regular expression or expressions that end the answer where a match is first complete, which is then
        treated as a stop string is. Python's syntax without what looks around (pellucid/stop_regex.py); a match has at
        most 1,024 characters.
    stop_token_ids: token ids that end the answer, beside the model's own end tokens.
    min_tokens: end tokens cannot be chosen, and stop and stop_regex do not end the answer, before this many tokens.
    max_tokens: end after this many tokens (finish_reason "length"). None: until the context is full.
    ignore_eos: the model's own end tokens do not end the answer.
    logprobs: None, or how many of the most likely tokens to report at each position beside the chosen one, up to 100.
        They are log-softmax values of the model's raw logits, before any of the above.
    prompt_logprobs: the same for the prompt's tokens.
    skip_special_tokens: leave control tokens out of the text.
    visible_token_ids: control tokens that stay in the text all the same.
    include_stop_str_in_output: keep the stop string, or the text of the stop token, at the end of the text.
    echo: the text begins with that of the prompt, as its tokens spell it (control tokens as skip_special_tokens says);
        log-probabilities of it are prompt_logprobs. Not for a chat, whose prompt the template writes.
    structured_outputs: the form that the answer must have (docs/structured-output.md); goes without min_tokens and
        ignore_eos.
    logits_processors: functions of your own, called one after the other for each token with the prompt's token ids, the
        answer's so far, and a copy of the row of logits, a float32 array [V] that they change or replace by what they
        return; -inf forbids a token. One that raises, or makes NaN, ends its request alone. They run in Python between
        two steps, so a slow one slows everything; the answer stays independent of all else if they are pure functions.
        In the library only.

    Raises InvalidParameter, and UnsupportedParameter for a known field that is not implemented; both name the field.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    samplers: Sequence[str] = SAMPLERS
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int = -1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_sequence_breakers: Sequence[str] = ("\n", ":", '"', "*")
    no_repeat_ngram_size: int = 0
    allowed_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] = field(default=())
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    n: int = 1
    best_of: int | None = None
    beam_width: int = 0
    length_penalty: float = 1.0
    stop: str | Sequence[str] = field(default=())
    stop_regex: str | Sequence[str] = field(default=())
    stop_token_ids: Sequence[int] = field(default=())
    min_tokens: int = 0
    max_tokens: int | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    visible_token_ids: Sequence[int] = field(default=())
    include_stop_str_in_output: bool = False
    echo: bool = False
    structured_outputs: StructuredOutputs | Mapping[str, Any] | None = None
    logits_processors: Sequence[LogitsProcessor] = field(default=())

    def __new__(cls, **given: object) -> Self:
        # Names are checked before the generated __init__ sees them, so that an unsupported field is refused by name.
        refuse_unknown(given, (f.name for f in fields(cls)), PLANNED, "sampling parameter")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        self._set("temperature", sampling_fields.temperature(self.temperature))
        self._set("top_k", max(0, integer("top_k", self.top_k, -1, MAX_TOKEN_ID)))
        self._set("top_p", real("top_p", self.top_p, 0.0, 1.0, open_low=True))
        self._set("min_p", real("min_p", self.min_p, 0.0, 1.0))
        self._set("typical_p", real("typical_p", self.typical_p, 0.0, 1.0, open_low=True))
        self._set("top_n_sigma", real("top_n_sigma", self.top_n_sigma, 0.0, 100.0))
        self._set("xtc_probability", real("xtc_probability", self.xtc_probability, 0.0, 1.0))
        self._set("xtc_threshold", real("xtc_threshold", self.xtc_threshold, 0.0, 0.5, open_low=True))
        self._set("dynatemp_range", real("dynatemp_range", self.dynatemp_range, 0.0, 100.0))
        self._set("dynatemp_exponent", real("dynatemp_exponent", self.dynatemp_exponent, 0.01, 100.0))
        self._set("mirostat", integer("mirostat", self.mirostat, 0, 2))
        self._set("mirostat_tau", real("mirostat_tau", self.mirostat_tau, 0.0, 100.0, open_low=True))
        self._set("mirostat_eta", real("mirostat_eta", self.mirostat_eta, 0.0, 1.0, open_low=True))
        self._set("repetition_penalty", real("repetition_penalty", self.repetition_penalty, 0.01, 100.0))
        self._set("presence_penalty", real("presence_penalty", self.presence_penalty, -2.0, 2.0))
        self._set("frequency_penalty", real("frequency_penalty", self.frequency_penalty, -2.0, 2.0))
        self._set("repeat_last_n", sampling_fields.repeat_last_n(self.repeat_last_n))
        self._set("dry_multiplier", real("dry_multiplier", self.dry_multiplier, 0.0, 100.0))
        self._set("dry_base", real("dry_base", self.dry_base, 1.0, 100.0))
        self._set("dry_allowed_length", integer("dry_allowed_length", self.dry_allowed_length, 1, MAX_TOKENS))
        self._set("dry_sequence_breakers", sampling_fields.breakers(self.dry_sequence_breakers))
        self._set("no_repeat_ngram_size", integer("no_repeat_ngram_size", self.no_repeat_ngram_size, 0, MAX_TOKENS))
        self._set("allowed_token_ids", sampling_fields.allowed_token_ids(self.allowed_token_ids))
        self._set("bad_words", sampling_fields.texts("bad_words", self.bad_words, MAX_WORDS, MAX_STOP_LENGTH))
        self._set("samplers", sampling_fields.samplers(self.samplers))
        self._set("logit_bias", sampling_fields.logit_bias(self.logit_bias))
        if self.seed is not None:
            self._set("seed", integer("seed", self.seed, 0, 2**64 - 1))
        self._set("n", integer("n", self.n, 1, MAX_N))
        if self.best_of is not None:
            self._set("best_of", integer("best_of", self.best_of, self.n, MAX_N))
        self._set("beam_width", integer("beam_width", self.beam_width, 0, MAX_BEAM_WIDTH))
        self._set("length_penalty", real("length_penalty", self.length_penalty, -10.0, 10.0))
        self._set("stop", sampling_fields.texts("stop", self.stop, MAX_STOP_STRINGS, MAX_STOP_LENGTH))
        self._set("stop_regex", sampling_fields.stop_regex(self.stop_regex))
        for name in ("stop_token_ids", "visible_token_ids"):
            self._set(name, sampling_fields.token_ids(name, getattr(self, name)))
        if self.max_tokens is not None:
            self._set("max_tokens", integer("max_tokens", self.max_tokens, 1, MAX_TOKENS))
        most = MAX_TOKENS if self.max_tokens is None else self.max_tokens
        self._set("min_tokens", integer("min_tokens", self.min_tokens, 0, most))
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                self._set(name, integer(name, getattr(self, name), 0, MAX_LOGPROBS))
        for name in ("ignore_eos", "skip_special_tokens", "include_stop_str_in_output", "echo"):
            boolean(name, getattr(self, name))
        if isinstance(self.structured_outputs, Mapping):  # from a receipt
            self._set("structured_outputs", StructuredOutputs(**self.structured_outputs))
        if not isinstance(self.structured_outputs, StructuredOutputs | None):
            raise InvalidParameter(
                "structured_outputs", f"expected StructuredOutputs(…), got {show(self.structured_outputs)}"
            )
        self._set("logits_processors", sampling_fields.processors(self.logits_processors))
        self._refuse_contradictions()

    @property
    def penalises(self) -> bool:
        """Whether one of the three penalties is on."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def is_contest(self) -> bool:
        """Whether the answers are chosen among others, and not known before the end."""
        return self.beam_width > 0 or (self.best_of is not None and self.best_of > self.n)

    def _refuse_contradictions(self) -> None:
        for name in [sampler for sampler in SAMPLERS if sampler not in self.samplers]:
            for parameter, off in _OFF[name].items():
                if getattr(self, parameter) != off:
                    raise InvalidParameter(
                        parameter, f"it is {getattr(self, parameter):g}, but `samplers` leaves {name!r} out"
                    )
        if self.structured_outputs is not None:
            for name in ("min_tokens", "ignore_eos"):
                if getattr(self, name):
                    raise InvalidParameter(name, "with structured_outputs the answer ends where its form ends")
        if self.dynatemp_range > self.temperature:
            raise InvalidParameter(
                "dynatemp_range", f"{self.dynatemp_range:g} is more than the temperature, {self.temperature:g}"
            )
        if self.temperature == 0:
            for name, value in (("xtc_probability", self.xtc_probability), ("mirostat", self.mirostat)):
                if value > 0:
                    raise InvalidParameter(name, "a temperature of 0 takes the most likely token and leaves no choice")
        if self.mirostat:
            for name in ("top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc"):
                for parameter, off in _OFF[name].items():
                    if getattr(self, parameter) != off:
                        raise InvalidParameter(parameter, "mirostat chooses in place of it; switch one of them off")

        if not self.beam_width and self.is_contest and self.temperature == 0:
            raise InvalidParameter("best_of", "a temperature of 0 makes the same answer every time")
        if self.beam_width:
            self._refuse_what_beams_ignore()
        elif self.length_penalty != 1:
            raise InvalidParameter("length_penalty", "is about beam search; give a beam_width")

    def _refuse_what_beams_ignore(self) -> None:
        if self.n > self.beam_width:
            raise InvalidParameter("n", f"beam search with a beam_width of {self.beam_width} finds no {self.n} answers")
        if self.temperature not in (0, 1):
            raise InvalidParameter("temperature", "beam search does not sample; leave it at 1, or say 0")
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name not in _WITH_BEAMS and value != f.default:
                raise InvalidParameter(f.name, "is about sampling, and beam search does not sample; leave one away")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # frozen for everybody but the validation

    def as_dict(self) -> dict[str, object]:
        """The effective values, for receipts and logs; of logits_processors the names."""
        if not self.logits_processors:
            return asdict(self)
        names = tuple(map(sampling_fields.processor_name, self.logits_processors))
        return {**asdict(replace(self, logits_processors=())), "logits_processors": names}

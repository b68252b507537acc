"""The sampler: rows of logits in, a token for each out, with log-probabilities when asked for.

A result depends on its own row only, bit for bit. What walks the vocabulary (up to 262,144 entries, never sorted) is
C++ in `pellucid/native/sampling/`; here is what a request's parameters mean for it. docs/sampling.md defines every
sampler and names its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid.engine.constraint import Constraint
from pellucid.engine.look_back import SequenceBreakers, bad_word_ids
from pellucid.errors import ExecutorError, InvalidParameter
from pellucid.executors.sampling import NativeRow, Sampler, SamplerSettings, choose_rows, rank_rows
from pellucid.fields import show
from pellucid.sampling import SamplingParams
from pellucid.sampling_fields import MIN_TEMPERATURE, processor_name
from pellucid.text.tokenizer import Tokenizer

Logits = npt.NDArray[np.float32]  # [V]

_STAGES = (
    "penalties", "dry", "greedy", "temperature", "dynamic_temperature", "top_k", "typical_p", "top_p", "min_p",
    "top_n_sigma", "xtc", "mirostat1", "mirostat2",
)  # fmt: skip
"""Stage of native/sampling/settings.h, by number."""

_SAME_NAME = (
    "min_tokens", "no_repeat_ngram_size", "repetition_penalty", "frequency_penalty", "presence_penalty",
    "repeat_last_n", "dry_multiplier", "dry_base", "dry_allowed_length", "temperature", "dynatemp_range",
    "dynatemp_exponent", "top_k", "typical_p", "top_p", "min_p", "top_n_sigma", "xtc_probability", "xtc_threshold",
    "mirostat_tau", "mirostat_eta",
)  # fmt: skip


class RowSampler:
    """Chooses the tokens of one answer. What it knows of the tokens so far changes in `accept` only."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        seed: int,
        index: int,
        end_token_ids: frozenset[int],
        prompt_token_ids: Sequence[int],
        constraint: Constraint | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """`end_token_ids` are those that min_tokens holds back. Every id must be below the width of the logits.

        `tokenizer` is needed for dry and bad_words. Raises InvalidParameter for a word that it has no tokens for.
        """
        self.params = params
        self.seed = seed
        self.index = index
        self.constraint = constraint
        self._mask: npt.NDArray[np.uint32] | None = None  # the constraint's, for the token that comes next
        self._surprise: dict[int, float] = {}  # for mirostat: of the token that was sampled last
        self._breakers: SequenceBreakers | None = None
        self._prompt = tuple(prompt_token_ids) if params.logits_processors else ()
        self._answer: list[int] = []  # for logits processors
        settings = SamplerSettings()
        settings.seed, settings.index = seed, index
        for name in _SAME_NAME:
            setattr(settings, name, getattr(params, name))
        settings.stages = [_STAGES.index(stage) for stage in stages(params)]
        settings.lowest_temperature = MIN_TEMPERATURE
        settings.end_token_ids = sorted(end_token_ids)
        bias = params.logit_bias or {}
        settings.bias_ids, settings.bias = list(bias.keys()), list(bias.values())
        if params.allowed_token_ids is not None:
            settings.allowed = _bits(params.allowed_token_ids)
        if params.bad_words or params.dry_multiplier > 0:
            if tokenizer is None:
                raise InvalidParameter("bad_words" if params.bad_words else "dry_multiplier", "needs a tokenizer")
            settings.bad_words = bad_word_ids(params.bad_words, tokenizer)
            if params.dry_multiplier > 0:
                self._breakers = SequenceBreakers(params.dry_sequence_breakers, tokenizer)
        self._native = Sampler(settings)
        breaks = self._breakers.of_prompt(prompt_token_ids) if self._breakers else None
        prompt = np.array(prompt_token_ids, np.int32)
        self._native.add_prompt(prompt, np.zeros(len(prompt), np.uint8) if breaks is None else breaks)

    def prepare(self) -> None:
        """Compute the constraint's mask for the next token; may run beside the forward pass, in another thread.

        Whatever the constraint raises comes through. Without this call, sampling computes the mask itself.
        """
        if self.constraint is not None and self._mask is None:
            self._mask = self.constraint.mask()

    def process(self, logits: Logits) -> Logits | None:
        """What the logits processors make of a row; None if there are none. Raises InvalidParameter if one fails."""
        if not self.params.logits_processors or not np.isfinite(logits).all():  # the latter is another's failure
            return None
        row, answer = logits.copy(), tuple(self._answer)
        for processor in self.params.logits_processors:
            try:
                returned = processor(self._prompt, answer, row)
                row = row if returned is None else np.array(returned, np.float32)
            except Exception as error:
                raise InvalidParameter(
                    "logits_processors", f"{processor_name(processor)} raised {show(error)}"
                ) from error
            if row.shape != logits.shape:
                raise InvalidParameter(
                    "logits_processors", f"{processor_name(processor)} made shape {row.shape}, expected {logits.shape}"
                )
        if np.isnan(row).any() or np.isposinf(row).any():
            raise InvalidParameter("logits_processors", "they made NaN or infinite logits; only -inf is possible")
        return row

    def _nothing_left(self) -> InvalidParameter:
        """Every token is forbidden, which only the request itself can do; named after what forbids most."""
        params = self.params
        given = {
            "structured_outputs": self.constraint is not None,
            "allowed_token_ids": params.allowed_token_ids is not None,
            "bad_words": bool(params.bad_words),
            "logit_bias": bool(params.logit_bias),
            "logits_processors": bool(params.logits_processors),
            "no_repeat_ngram_size": params.no_repeat_ngram_size > 0,
            "min_tokens": params.min_tokens > 0,
        }
        named = [name for name, is_given in given.items() if is_given]
        return InvalidParameter(
            named[0] if named else "sampling",
            f"no token is left to choose: every one is forbidden, by {' and '.join(named)}; forbid less",
        )

    def sample(self, logits: Logits, *, num_output_tokens: int, position: int) -> int:
        """The token for `position`, after `num_output_tokens` others: `sample_rows` for one row, which raises."""
        [found] = sample_rows([Row(self, logits, num_output_tokens, position)])
        if isinstance(found, Exception):
            raise found
        return found.token

    def accept(self, token: int) -> None:
        """Count a token of the answer. Raises what the constraint raises."""
        if self.params.logits_processors:
            self._answer.append(token)
        breaks = self._breakers.add(token) if self._breakers else False
        self._native.accept(token, breaks, self._surprise.get(token, self.params.mirostat_tau))
        if self.constraint is not None:
            self._mask = None
            self.constraint.accept(token)


def stages(params: SamplingParams) -> list[str]:
    """The samplers that do something, in order."""
    greedy = params.temperature == 0
    active = {
        "penalties": params.penalises,
        "dry": params.dry_multiplier > 0,
        "temperature": params.temperature != 1 or params.dynatemp_range > 0,
        "top_n_sigma": params.top_n_sigma > 0,
        "top_k": params.top_k > 0,
        "typical_p": params.typical_p < 1,
        "top_p": params.top_p < 1,
        "min_p": params.min_p > 0,
        "xtc": params.xtc_probability > 0,
    }
    found = [name for name in params.samplers if active[name]]
    if greedy:  # one token is left then, and no later sampler could change that
        return [*found[: found.index("temperature")], "greedy"]
    if params.dynatemp_range > 0:
        found[found.index("temperature")] = "dynamic_temperature"
    return [*found, f"mirostat{params.mirostat}"] if params.mirostat else found


def _bits(ids: Sequence[int]) -> list[int]:
    words = np.zeros(max(ids) // 32 + 1, np.uint32)
    np.bitwise_or.at(words, np.array(ids) // 32, np.uint32(1) << (np.array(ids) % 32).astype(np.uint32))
    return [int(word) for word in words]


class RankedToken(NamedTuple):
    """A token with its log-probability, and how many tokens are at least as likely (1: the most likely)."""

    token_id: int
    logprob: float
    rank: int


@dataclass(frozen=True, slots=True)
class Row:
    """One row of logits that wants a token: the one for `position`, after `num_output_tokens` others of the answer.

    `num_logprobs` is how many of the most likely tokens to report beside the chosen one; None: no log-probabilities.
    """

    sampler: RowSampler
    logits: Logits
    num_output_tokens: int
    position: int
    num_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token, and with `num_logprobs` the log-probabilities that `ranked_logprobs` gives for it."""

    token: int
    logprobs: list[RankedToken] | None = None


def sample_rows(rows: Sequence[Row], *, threads: int = 1) -> list[Sampled | Exception]:
    """A token for each row, or the exception that this row alone ends with. Call `accept` with the token.

    The rows may be shared out over `threads`, which changes no bit. The exception is an ExecutorError when logits are
    NaN or infinite, InvalidParameter when no token is left to choose; or whatever the constraint raised.
    """
    results: list[Sampled | Exception | None] = []
    asked: list[NativeRow] = []
    for row in rows:
        try:
            asked.append(_native_row(row))
            results.append(None)
        except Exception as error:  # one request cannot hurt another
            results.append(error)
    chosen = iter(choose_rows(asked, threads=threads))
    for i, row in enumerate(rows):
        if results[i] is not None:
            continue
        token, surprise, num_invalid, ranked = next(chosen)
        if num_invalid:
            results[i] = _not_finite(num_invalid, len(row.logits))
        elif token < 0:
            results[i] = row.sampler._nothing_left()
        else:
            row.sampler._surprise = {token: surprise}
            results[i] = Sampled(token, None if row.num_logprobs is None else [RankedToken(*r) for r in ranked])
    return [result for result in results if result is not None]


def _native_row(row: Row) -> NativeRow:
    row.sampler.prepare()
    logits = np.ascontiguousarray(row.logits, np.float32)
    top = -1 if row.num_logprobs is None else row.num_logprobs
    return (
        row.sampler._native,
        logits,
        row.sampler.process(logits),
        row.sampler._mask,
        row.num_output_tokens,
        row.position,
        top,
    )


def ranked_logprobs(logits: Logits, token: int, count: int) -> list[RankedToken]:
    """`token` first, then the `count` most likely tokens (without `token`, if it is one of them), most likely first.

    log p(i) = x(i) - log Σ exp(x), of the logits as they come from the model. Equal logits rank by ascending id.
    """
    [ranked] = rank_rows(logits[None], [token], count)
    if not ranked:
        raise _not_finite(int(np.count_nonzero(~np.isfinite(logits))), len(logits))
    return [RankedToken(*r) for r in ranked]


def _not_finite(count: int, size: int) -> ExecutorError:
    return ExecutorError(f"{count} of {size} logits are NaN or infinite: the model's weights or activations overflow")

"""What a scripted model answers to one prompt, by a plain loop: no scheduler, no cache, no batch, no engine."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from support.fake_model import EOS, UNUSED, VOCAB_SIZE, ByteTokenizer

from pellucid.engine.readout import Pooler, TokenLogprobs
from pellucid.engine.sampler import Row, RowSampler, ranked_logprobs, sample_rows
from pellucid.sampling import SamplingParams

_TABLE = np.random.default_rng(0).standard_normal((2, 251, VOCAB_SIZE)).astype(np.float32) * 2


def scripted(tokens: Sequence[int]) -> np.ndarray:
    """Logits [V] that depend on every token and its place; an end token now and then."""
    state = zlib.crc32(array("H", tokens).tobytes())
    logits: np.ndarray = _TABLE[0, state % 251] + _TABLE[1, (state >> 8) % 251]
    return logits


def scripted_hidden(tokens: Sequence[int]) -> np.ndarray:
    """A hidden state [4] that depends on every token and its place."""
    return scripted(tokens)[:4]


class ScriptedConstraint:
    """Even and odd tokens in turn, so many of them, and then the end. `broken_at` counts them, too."""

    def __init__(self, length: int, broken_at: int | None = None) -> None:
        self._length, self._broken_at = length, broken_at
        self._count = 0

    def mask(self) -> np.ndarray:
        if self._count == self._broken_at:
            raise RuntimeError("the mask cannot be computed")
        allowed = np.arange(VOCAB_SIZE) % 2 == self._count % 2
        allowed[[EOS, UNUSED]] = self._count >= self._length, False
        bits = np.zeros(-(-VOCAB_SIZE // 32) * 32, np.uint8)
        bits[:VOCAB_SIZE] = allowed
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def accept(self, token: int) -> None:
        assert token == EOS or token % 2 == self._count % 2, "a token that the mask did not allow"
        self._count += 1

    @property
    def is_finished(self) -> bool:
        return self._count >= self._length + 3


@dataclass
class ColdAnswer:
    """As the fields of Request have it; log-probabilities are lists of RankedToken for each position."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    prompt_logprobs: list[Any] = field(default_factory=list)
    finish_reason: str = ""


def cold_answer(
    prompt: list[int], params: SamplingParams, index: int, *, max_num_tokens: int, sight: int, constraint_length: int
) -> ColdAnswer:
    """`sight` is how many tokens the model sees (0: all); `constraint_length` 0 means no constraint."""
    constraint = ScriptedConstraint(constraint_length) if constraint_length else None
    sampler = RowSampler(
        params,
        seed=params.seed or 0,
        index=index,
        end_token_ids=frozenset() if params.ignore_eos else frozenset({EOS}),
        prompt_token_ids=prompt,
        constraint=constraint,
        tokenizer=ByteTokenizer(),  # type: ignore[arg-type]
    )
    answer, tokens = ColdAnswer(), prompt.copy()
    if params.prompt_logprobs is not None and index == 0:
        answer.prompt_logprobs = [
            ranked_logprobs(scripted(seen(prompt[:i], sight)), prompt[i], params.prompt_logprobs)
            for i in range(1, len(prompt))
        ]
    limit = max_num_tokens if params.max_tokens is None else len(prompt) + params.max_tokens
    while not answer.finish_reason:
        row = Row(sampler, scripted(seen(tokens, sight)), len(answer.tokens), len(tokens), params.logprobs)
        [choice] = sample_rows([row])
        if isinstance(choice, Exception):
            raise choice
        sampler.accept(choice.token)
        tokens.append(choice.token)
        answer.tokens.append(choice.token)
        answer.logprobs += [] if choice.logprobs is None else [choice.logprobs]
        at_end = choice.token == EOS and not params.ignore_eos
        if (at_end and len(answer.tokens) >= params.min_tokens) or (constraint and constraint.is_finished):
            answer.finish_reason = "stop"
        elif len(tokens) >= limit:
            answer.finish_reason = "length"
    return answer


def read_cold(prompt: list[int], readout: Pooler | TokenLogprobs, sight: int) -> Any:
    """What a new `readout` of the same kind has when it has read the whole prompt at once."""
    model = scripted_hidden if readout.reads == "hidden" else scripted
    readout.take(np.array([model(seen(prompt[: p + 1], sight)) for p in readout.wanted]))
    return result_of(readout)


def result_of(readout: Pooler | TokenLogprobs) -> Any:
    return readout.vector.tolist() if isinstance(readout, Pooler) else readout.logprobs


def seen(tokens: list[int], sight: int) -> list[int]:
    """As FakeProgram reads them: 0 in place of those behind the longest window."""
    hidden = max(0, len(tokens) - sight) if sight else 0
    return [0] * hidden + tokens[hidden:]

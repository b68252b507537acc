"""The workload of `pellucid verify`: requests that make an engine share, preempt, cut up and guess all it can."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from pellucid.engine.engine import Engine
from pellucid.engine.request import Request
from pellucid.errors import InvalidParameter
from pellucid.sampling import SamplingParams
from pellucid.sampling_fields import SAMPLERS
from pellucid.structured_outputs import StructuredOutputs

CANCELS = 0.03
"""Chance at each step that an answer is cancelled."""

MOST_GUESSES = 4


@dataclass(frozen=True)
class Ask:
    """The arguments of one `Engine.add_request`."""

    prompt: list[int]
    params: SamplingParams
    priority: int
    tenant: str
    cache_salt: str


def sampler_settings(vocab_size: int) -> list[dict[str, Any]]:
    """Every sampling parameter at work in at least one of them, and every kind of structured output."""
    plain: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 1.0},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "samplers": SAMPLERS[::-1]},
        {"temperature": 1.5, "min_p": 0.02, "presence_penalty": 0.3},
        {"temperature": 0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"temperature": 0, "repetition_penalty": 1.3, "repeat_last_n": 8},
        {"temperature": 1.0, "logit_bias": {1: 2.0, 2: -2.0}, "min_tokens": 3},
        {"temperature": 1.0, "typical_p": 0.9},
        {"temperature": 1.0, "top_n_sigma": 1.0},
        {"temperature": 1.0, "xtc_probability": 0.5, "xtc_threshold": 0.05},
        {
            "temperature": 0,
            "dry_multiplier": 0.8,
            "dry_base": 1.5,
            "dry_allowed_length": 1,
            "dry_sequence_breakers": [","],
        },
        {"temperature": 1.0, "mirostat": 1, "mirostat_tau": 3.0},
        {"temperature": 1.0, "mirostat": 2, "mirostat_eta": 0.3},
        {"temperature": 1.0, "dynatemp_range": 0.5, "dynatemp_exponent": 1.5},
        {"temperature": 0, "no_repeat_ngram_size": 2},
        {"temperature": 1.0, "allowed_token_ids": range(0, min(vocab_size, 60_000), 3)},
        {"temperature": 1.0, "bad_words": ["the", "e"]},
        {"temperature": 1.0, "logits_processors": [_alternate]},
        {"temperature": 1.0, "stop": ["ing", "zz"], "stop_token_ids": [5, 6, 7]},
        {"temperature": 1.0, "stop_regex": ["[a-e]{3}"]},
        {"temperature": 1.0, "best_of": 4},
        {"beam_width": 3, "length_penalty": 0.5},
    ]
    forms: list[dict[str, Any]] = [
        {"json": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}}},
        {"json_object": True, "disable_any_whitespace": True},
        {"regex": "[a-z]{3,9}( [a-z]{2,9}){1,5}"},
        {"choice": ["one", "two words", "three words more"]},
        {"grammar": 'start: ("a" | "b" | start "c")+'},
        {"gbnf": 'root ::= [0-9]+ ("+" [0-9]+)*'},
    ]
    heat = [0.0, 1.0, 0.7]
    return plain + [
        {"temperature": heat[i % len(heat)], "structured_outputs": StructuredOutputs(**form)}
        for i, form in enumerate(forms)
    ]


def spellable(engine: Engine, settings: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Those of `settings` whose form the model's vocabulary can spell, and the names of the forms of the others."""
    found, left_out = [], []
    for own in settings:
        try:
            engine.compile(SamplingParams(**own))
            found.append(own)
        except InvalidParameter:
            left_out.append(own["structured_outputs"].kind)
    return found, left_out


def make_workload(
    count: int, rng: random.Random, settings: Sequence[dict[str, Any]], *, vocab_size: int, max_model_len: int
) -> list[Ask]:
    """Prompts of random tokens, two thirds of which begin like others; all `settings` in turn, one to three answers."""

    def tokens(most: int) -> list[int]:
        return [rng.randrange(vocab_size) for _ in range(rng.randint(1, max(1, most)))]

    prefixes = [tokens(max_model_len // 3) for _ in range(4)]
    asks = []
    for i in range(count):
        own = settings[i % len(settings)]
        params = SamplingParams(
            **own,
            seed=rng.getrandbits(64),
            n=rng.choice([1, 1, 1, 2, 3]),
            max_tokens=rng.randint(4, max(4, min(40, max_model_len // 4))),
            ignore_eos="structured_outputs" not in own and rng.random() < 0.5,
            logprobs=rng.choice([0, 1, 2, 3]),
            prompt_logprobs=None if "beam_width" in own else rng.choice([None, None, None, 2]),
        )
        prompt = tokens(max_model_len // 4)
        if rng.random() < 2 / 3:
            prompt = rng.choice(prefixes) + tokens(max_model_len // 8)
        asks.append(Ask(prompt, params, rng.choice([0, 0, 0, -1, 1]), rng.choice("abc"), rng.choice(["", "", "salt"])))
    return asks


def run_workload(engine: Engine, asks: Sequence[Ask], rng: random.Random) -> list[list[Request]]:
    """All of `asks`, arriving at random moments; the finished requests of each, some of them cancelled."""
    upcoming = list(asks)[::-1]
    added: list[list[Request]] = []
    while upcoming or engine.has_unfinished:
        while upcoming and (rng.random() < 0.7 or not engine.has_unfinished):
            ask = upcoming.pop()
            added.append(
                engine.add_request(
                    ask.prompt, ask.params, priority=ask.priority, tenant=ask.tenant, cache_salt=ask.cache_salt
                )
            )
        if rng.random() < CANCELS and (unfinished := [own for own in added if own[-1].finish_reason is None]):
            engine.abort(rng.choice(unfinished)[: rng.choice([1, None])])
        engine.step()
    return added


class EarlierTokens:
    """A Drafter that guesses that what followed the last token before follows it again: often right, often wrong."""

    def propose(self, request: Request) -> Sequence[int]:
        tokens = request.token_ids
        for i in range(len(tokens) - 2, -1, -1):
            if tokens[i] == tokens[-1]:
                return tokens[i + 1 : i + 1 + MOST_GUESSES]
        return ()


def _alternate(_: Sequence[int], answer: Sequence[int], logits: npt.NDArray[Any]) -> None:
    """A logits processor: even and odd tokens in turn are made likelier."""
    logits[len(answer) % 2 :: 2] += 1.0

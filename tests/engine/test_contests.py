"""best_of and beam search: the answers are those of the definition, in any company, and nothing is left behind."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from support.beam_definition import beam_search
from support.fake_model import END_OF_TURN, EOS, VOCAB_SIZE, ByteTokenizer, FakeProgram, hashed

from pellucid.config import EngineConfig
from pellucid.engine.contest import cumulative_logprob
from pellucid.engine.engine import Engine
from pellucid.engine.request import Request
from pellucid.sampling import SamplingParams

ENDS = {EOS, END_OF_TURN}


def ending(tokens: list[int]) -> np.ndarray:
    """As `hashed`, with ends that come often enough."""
    logits = hashed(tokens)
    logits[EOS] += 5
    return logits


def make(predict: Any = ending, *, num_blocks: int = 64, **settings: Any) -> Engine:
    config = EngineConfig(model="fake", **settings)
    program = FakeProgram(predict, num_blocks=num_blocks)
    return Engine(program, ByteTokenizer(), config, vocab_size=VOCAB_SIZE, max_model_len=200)  # type: ignore[arg-type]


def finish(engine: Engine) -> list[Request]:
    """Everything that `step` reported."""
    reported = []
    while engine.has_unfinished:
        reported += engine.step()
        engine.cache.check()
    engine.cache.check(idle=True)
    return reported


def answers(engine: Engine, prompt: str, **params: Any) -> list[Request]:
    requests = engine.add_request(list(prompt.encode()), SamplingParams(**{"max_tokens": 12, **params}))
    reported = finish(engine)
    assert [r for r in reported if r in requests] == requests or len(reported) > len(requests)
    return requests


def told(requests: list[Request]) -> list[tuple[Any, ...]]:
    return [(r.token_ids, r.text.text, r.finish_reason, r.stop_reason, r.logprobs) for r in requests]


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0, -0.5])
def test_beam_search_is_that_of_the_definition(width: int, penalty: float) -> None:
    for i in range(6):
        prompt = f"prompt {i}"
        found = answers(make(), prompt, beam_width=width, n=width, length_penalty=penalty, logprobs=0)
        ends = {EOS} | ({END_OF_TURN} if END_OF_TURN in ByteTokenizer().eos_token_ids else set())
        wanted = beam_search(
            ending, list(prompt.encode()), width=width, max_tokens=12, end_token_ids=ends, length_penalty=penalty
        )
        assert [r.token_ids[r.num_prompt_tokens :] for r in found] == [tokens for _, tokens in wanted[:width]]
        for r, (score, tokens) in zip(found, wanted, strict=False):
            assert cumulative_logprob(r) / len(tokens) ** penalty == pytest.approx(score, rel=1e-5)
            assert r.finish_reason == ("stop" if tokens[-1] in ends else "length")


def test_one_beam_is_the_most_likely_token_every_time() -> None:
    [beam] = answers(make(), "one", beam_width=1, length_penalty=0.0)
    [greedy] = answers(make(), "one", temperature=0)
    assert beam.token_ids == greedy.token_ids


def test_stop_token_ids_and_ignored_ends() -> None:
    forced = {65, 66, 67}
    found = answers(make(), "abc", beam_width=3, n=3, stop_token_ids=sorted(forced), ignore_eos=True, max_tokens=6)
    wanted = beam_search(ending, list(b"abc"), width=3, max_tokens=6, end_token_ids=forced)
    assert [r.token_ids[3:] for r in found] == [tokens for _, tokens in wanted[:3]]


def test_best_of_returns_the_most_probable_in_order() -> None:
    for seed in range(4):
        asked = {"seed": seed, "temperature": 1.5, "max_tokens": 6, "logprobs": 1}
        every = answers(make(), "hello", n=7, **asked)
        best = answers(make(), "hello", n=3, best_of=7, **asked)
        wanted = sorted(every, key=lambda r: -cumulative_logprob(r))[:3]
        assert told(best) == told(wanted)
        assert best[0].num_lost_tokens == sum(r.num_output_tokens for r in every) - sum(
            r.num_output_tokens for r in best
        )
        plain = answers(make(), "hello", n=3, best_of=7, **{**asked, "logprobs": None})
        assert [r.token_ids for r in plain] == [r.token_ids for r in best]
        assert all(r.logprobs == [] for r in plain)
    assert told(answers(make(), "hello", n=2, best_of=2, seed=1)) == told(answers(make(), "hello", n=2, seed=1))


def test_prompt_logprobs_come_with_the_first_of_the_best() -> None:
    alone = answers(make(), "hello", seed=1, prompt_logprobs=2)
    best = answers(make(), "hello", seed=1, prompt_logprobs=2, n=2, best_of=4)
    assert best[0].prompt_logprobs == alone[0].prompt_logprobs


ASKED: list[dict[str, Any]] = [
    {"beam_width": 4, "n": 2, "logprobs": 2},
    {"beam_width": 3, "length_penalty": 0.0},
    {"n": 2, "best_of": 5, "temperature": 1.3},
    {"temperature": 0},
    {"n": 3, "temperature": 2.0, "logprobs": 1},
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("prefix_caching", [True, False])
def test_company_and_preemption_change_nothing(seed: int, prefix_caching: bool) -> None:
    rng = random.Random(seed)
    jobs = [(f"a prompt that is {i % 4} long".encode() * (1 + i % 3), ASKED[i % 5] | {"seed": i}) for i in range(12)]
    rng.shuffle(jobs)
    settings: dict[str, Any] = {"enable_prefix_caching": prefix_caching}
    cold = [told(answers(make(**settings), p.decode(), max_tokens=30, **fields)) for p, fields in jobs]
    engine = make(num_blocks=9, max_num_seqs=6, max_num_batched_tokens=48, **settings)
    hot: list[list[Request]] = []
    for prompt, fields in jobs:
        hot.append(engine.add_request(list(prompt), SamplingParams(max_tokens=30, **fields)))
        for _ in range(rng.randrange(6)):
            engine.step()
            engine.cache.check()
    finish(engine)
    assert engine.stats().preemptions_total > 0
    assert [told(requests) for requests in hot] == cold


def test_cancelling_frees_everything_at_any_moment() -> None:
    for num_steps in range(14):
        engine = make(num_blocks=32)
        beams = engine.add_request(list(b"cancel me"), SamplingParams(beam_width=4, n=2, max_tokens=12))
        best = engine.add_request(list(b"me too"), SamplingParams(n=2, best_of=4, max_tokens=12, seed=1))
        other = engine.add_request(list(b"not me"), SamplingParams(temperature=0, max_tokens=12))
        for _ in range(num_steps):
            engine.step()
        engine.abort([*beams, *best])
        engine.cache.check()
        assert {r.finish_reason for r in [*beams, *best]} <= {"abort", "stop", "length"}
        finish(engine)
        assert told(other) == told(answers(make(), "not me", temperature=0))


def test_an_answer_that_is_not_wanted_any_more_leaves_the_others() -> None:
    wanted = answers(make(), "several", beam_width=4, n=3)
    engine = make()
    requests = engine.add_request(list(b"several"), SamplingParams(beam_width=4, n=3, max_tokens=12))
    engine.step()
    engine.abort(requests[:2])
    finish(engine)
    assert [r.finish_reason for r in requests[:2]] == ["abort", "abort"]
    assert told(requests[2:]) == told(wanted[2:])


def test_a_failed_step_ends_a_contest_and_not_the_engine() -> None:
    engine = make()
    beams = engine.add_request(list(b"fails"), SamplingParams(beam_width=4, n=2, max_tokens=12))
    best = engine.add_request(list(b"fails, too"), SamplingParams(n=1, best_of=3, max_tokens=12, seed=1))
    for _ in range(3):
        engine.step()
    engine.program.fail_next = True  # type: ignore[attr-defined]
    reported = finish(engine)
    assert {r.finish_reason for r in [*beams, *best]} == {"error"}
    assert set(beams + best) <= set(reported)
    assert told(answers(engine, "again", beam_width=2)) == told(answers(make(), "again", beam_width=2))


def test_an_interrupted_step_leaves_no_contest_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make()
    beams = engine.add_request(list(b"stop here"), SamplingParams(beam_width=3, max_tokens=12))
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(engine.program, "run", lambda _: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    assert beams[0].finish_reason == "error"
    assert not engine.has_unfinished
    finish(engine)

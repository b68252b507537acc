"""best_of and beam search: the answers are those of the definition, in any company, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from support.beam_definition import beam_search
from support.fake_model import END_OF_TURN, EOS, VOCAB_SIZE, ByteTokenizer, FakeProgram, hashed
from support.tiny_model import write_tiny_model

from pellucid.config import EngineConfig
from pellucid.engine.async_engine import AsyncLLM
from pellucid.engine.contest import cumulative_logprob
from pellucid.engine.engine import Engine
from pellucid.engine.llm import LLM
from pellucid.engine.outputs import RequestOutput, StreamChunk
from pellucid.engine.request import Request
from pellucid.sampling import SamplingParams

KV = "80KiB"
"""Room for five blocks of the Story model."""


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


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_beams_share_blocks_and_compute_one_token_each(prefix_caching: bool) -> None:
    engine = make(enable_prefix_caching=prefix_caching)
    answers(engine, "a prompt of more than one block", beam_width=4, n=1)
    first, *others = [len(batch.token_ids) for batch in engine.program.batches]  # type: ignore[attr-defined]
    assert first == len("a prompt of more than one block")
    assert max(others) <= 4, "what was computed was computed again"
    assert engine.program.copies, "nobody wrote into a block that was shared"  # type: ignore[attr-defined]
    num_computed = sum(len(batch.logit_rows) for batch in engine.program.batches)  # type: ignore[attr-defined]
    assert engine.stats().generation_tokens_total == num_computed > 4


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
        for _ in range(num_steps):
            beams = engine.add_request(list(b"alone"), SamplingParams(beam_width=4, n=2, max_tokens=12))
            engine.step()
        engine.abort(list(engine.scheduler))
        engine.cache.check(idle=True)


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


class Row:
    """A readout of one row of logits."""

    reads: Literal["hidden", "logits"] = "logits"

    def __init__(self, position: int) -> None:
        self.wanted = range(position, position + 1)
        self.row = np.zeros(0, np.float32)

    def take(self, rows: np.ndarray) -> None:
        for row in rows:
            self.row, self.wanted = row.copy(), self.wanted[1:]


def test_the_story_model_in_company(story_path: Path) -> None:
    """A real model on the kernels: the definition is given logits that are computed cold, one sequence at a time."""
    prompt, params = "Once upon a time", SamplingParams(beam_width=4, n=4, max_tokens=10, logprobs=1)
    with LLM(str(story_path), max_model_len=64, enable_prefix_caching=False) as cold:
        engine, ids = cold._engine, cold.tokenize(prompt)

        def logits(tokens: list[int]) -> np.ndarray:
            row = Row(len(tokens) - 1)
            engine.add_readout(tokens, row)
            finish(engine)
            return row.row

        ends = set(cold.tokenizer.eos_token_ids)
        wanted = beam_search(logits, ids, width=4, max_tokens=10, end_token_ids=ends)
        [alone] = cold.generate(prompt, params)
    assert [answer.token_ids for answer in alone.outputs] == [tokens for _, tokens in wanted[:4]]
    with LLM(str(story_path), max_model_len=64, max_num_seqs=8, max_num_batched_tokens=16, kv_cache_memory=KV) as llm:
        company = [SamplingParams(n=3, best_of=4, seed=1, max_tokens=20), SamplingParams(temperature=0, max_tokens=30)]
        results = llm.generate(["The dog", "A cat", prompt, "Tom and"], [*company, params, company[0]])
        assert llm.stats().preemptions_total > 0
    assert results[2].outputs == alone.outputs


def test_streams_have_such_answers_in_one_piece(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf")
    for asked in (
        SamplingParams(n=2, best_of=4, seed=1, max_tokens=6),
        SamplingParams(beam_width=3, n=2, max_tokens=6),
    ):
        with LLM(str(path), max_model_len=64) as llm:
            [result] = llm.generate("hello", asked)
            chunks = list(llm.stream("hello", asked))

        async def ask(params: SamplingParams) -> tuple[RequestOutput, list[StreamChunk]]:
            async with AsyncLLM(str(path), max_model_len=64) as llm:
                left = llm.generate("leave me", params)
                task = asyncio.create_task(anext(aiter(left)))  # type: ignore[arg-type]
                await asyncio.sleep(0.01)
                task.cancel()
                return await llm.generate("hello", params), [chunk async for chunk in llm.generate("hello", params)]

        awaited, streamed = asyncio.run(ask(asked))
        assert awaited.outputs == result.outputs
        for pieces in (chunks, streamed):
            assert [(c.index, c.text, c.token_ids) for c in pieces] == [
                (o.index, o.text, o.token_ids) for o in result.outputs
            ]
            assert pieces[-1].result is not None
            assert pieces[-1].result.outputs == result.outputs
        assert result.usage.completion_tokens >= sum(len(o.token_ids) for o in result.outputs)

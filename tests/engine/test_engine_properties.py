"""Random arrivals, cancels and tiny caches: every request ends with the very tokens it has when it is alone."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fake_model import VOCAB_SIZE, ByteTokenizer, FakeProgram

from pellucid.config import EngineConfig
from pellucid.engine.engine import Engine
from pellucid.engine.request import Request
from pellucid.sampling import SamplingParams

MAX_MODEL_LEN = 48


def engine(num_blocks: int, **limits: int | None) -> Engine:
    config = EngineConfig(model="fake", **limits)  # type: ignore[arg-type]
    program = FakeProgram(num_blocks=num_blocks)
    return Engine(program, ByteTokenizer(), config, vocab_size=VOCAB_SIZE, max_model_len=MAX_MODEL_LEN)  # type: ignore[arg-type]


def result(request: Request) -> tuple[object, ...]:
    return request.token_ids, request.text.text, request.logprobs, request.prompt_logprobs, request.finish_reason


def alone(prompt: list[int], params: SamplingParams) -> list[tuple[object, ...]]:
    e = engine(16)
    requests = e.add_request(prompt, params)
    while e.has_unfinished:
        e.step()
    return [result(r) for r in requests]


params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1.0]),
    top_p=st.sampled_from([0.7, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
    seed=st.integers(0, 3),
    n=st.integers(1, 2),
    max_tokens=st.integers(1, 24),
    ignore_eos=st.just(True),
    logprobs=st.sampled_from([None, 1]),
    prompt_logprobs=st.sampled_from([None, 0]),
)
prompts = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=24)
arrivals = st.lists(
    st.tuples(st.integers(0, 6), prompts, params, st.none() | st.integers(0, 10)), min_size=1, max_size=6
)


@given(
    arrivals=arrivals,
    num_blocks=st.integers(3, 8),
    max_num_seqs=st.integers(1, 5),
    max_num_batched_tokens=st.integers(1, 40),
    prefill_chunk=st.none() | st.integers(1, 20),
)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_company_changes_no_answer(
    arrivals: list[tuple[int, list[int], SamplingParams, int | None]], num_blocks: int, **limits: int | None
) -> None:
    e = engine(num_blocks, **limits)
    running: list[tuple[list[Request], int | None]] = []
    added: list[tuple[list[int], SamplingParams, list[Request]]] = []
    pending = sorted(arrivals, key=lambda a: a[0])
    step = 0
    while pending or e.has_unfinished:
        while pending and pending[0][0] <= step:
            _, prompt, p, lifetime = pending.pop(0)
            requests = e.add_request(prompt, p)
            added.append((prompt, p, requests))
            running.append((requests, None if lifetime is None else step + lifetime))
        for requests, cancel_at in running:
            if cancel_at == step:
                e.abort(requests)
        e.step()
        e.cache.check()
        for r in e.scheduler:
            assert 0 <= r.num_computed_tokens < r.num_tokens
        assert len(e.scheduler.running) <= e.scheduler.max_num_seqs
        step += 1
        assert step < 5000, "it does not come to an end"
    e.cache.check(idle=True)
    for batch in e.program.batches:  # type: ignore[attr-defined]
        assert len(batch.token_ids) <= e.scheduler.max_num_batched_tokens
    for prompt, p, requests in added:
        for found, expected in zip(map(result, requests), alone(prompt, p), strict=True):
            if found[-1] != "abort":
                assert found == expected
            else:
                assert expected[0][: len(found[0])] == found[0]  # type: ignore[index,arg-type]

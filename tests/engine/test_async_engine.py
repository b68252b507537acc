"""AsyncLLM on a tiny model file: many streams at once, each of which may be left at any moment."""

import asyncio
import gc
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.cancels import at_rest, cancel_at_random
from support.tiny_model import write_tiny_model

from pellucid import LLM, AsyncLLM, RequestOutput, SamplingParams, StreamChunk
from pellucid.cache.prefix import BlockHashes
from pellucid.errors import ContextLengthExceeded, ExecutorError, InvalidParameter, InvalidRequest
from pellucid.structured_outputs import StructuredOutputs

T = TypeVar("T")
ENDLESS = SamplingParams(temperature=0, ignore_eos=True, max_tokens=200)
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def llm(path: Path) -> Iterator[AsyncLLM]:
    llm = AsyncLLM(str(path), threads=1, kv_cache_memory="1MiB")
    yield llm
    run(llm.close())


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 60))


def sampled(seed: int, **settings: Any) -> SamplingParams:
    return SamplingParams(**{"seed": seed, "temperature": 2.0, "ignore_eos": True, "max_tokens": 30, **settings})


async def whole(llm: AsyncLLM, prompt: str, params: SamplingParams) -> RequestOutput:
    return await llm.generate(prompt, params)


def joined(chunks: list[StreamChunk], index: int) -> tuple[str, list[int], list[Any]]:
    own = [c for c in chunks if c.index == index]
    return "".join(c.text for c in own), [t for c in own for t in c.token_ids], [e for c in own for e in c.logprobs]


def test_many_streams_at_once_give_what_the_sync_api_gives(llm: AsyncLLM, path: Path) -> None:
    params = [sampled(i, n=1 + i % 3, logprobs=1, max_tokens=5 + i) for i in range(20)]
    with LLM(str(path), threads=1) as sync:
        expected = [sync.generate(f"prompt {i}", p)[0] for i, p in enumerate(params)]

    async def read(i: int) -> list[StreamChunk]:
        return [chunk async for chunk in llm.generate(f"prompt {i}", params[i])]

    async def everything() -> list[list[StreamChunk]]:
        chunks = await asyncio.gather(*(read(i) for i in range(20)))
        await at_rest(llm)
        return chunks

    for chunks, result in zip(run(everything()), expected, strict=True):
        for output in result.outputs:
            assert joined(chunks, output.index) == (output.text, output.token_ids, output.logprobs)
        assert [c.result is None for c in chunks] == [True] * (len(chunks) - 1) + [False]
        assert chunks[-1].result is not None
        assert chunks[-1].result.outputs == result.outputs
        assert chunks[-1].result.usage == result.usage


def test_an_answer_can_be_awaited_whole(llm: AsyncLLM, path: Path) -> None:
    async def both() -> list[Any]:
        return await asyncio.gather(llm.generate("Hello", sampled(1)), llm.chat(HELLO, sampled(2, n=2)))

    found = run(both())
    with LLM(str(path), threads=1) as sync:
        expected = [*sync.generate("Hello", sampled(1)), *sync.chat(HELLO, sampled(2, n=2))]
    assert [r.outputs for r in found] == [r.outputs for r in expected]
    assert found[1].prompt == expected[1].prompt
    assert 0 <= found[0].metrics.queue_time <= found[0].metrics.total_time


def test_a_slow_reader_holds_up_nobody_and_gets_the_rest_as_one_chunk(llm: AsyncLLM) -> None:
    async def slow() -> list[StreamChunk]:
        chunks = []
        async for chunk in llm.generate("Hello", ENDLESS):
            chunks.append(chunk)
            if len(chunks) == 1:
                await llm.generate("other", ENDLESS)  # begun later, and complete before this reader goes on
                await at_rest(llm)
        return chunks

    chunks = run(slow())
    assert len(chunks) <= 3
    assert len(joined(chunks, 0)[1]) == 200


def test_leaving_the_loop_frees_the_request(llm: AsyncLLM) -> None:
    async def leave() -> None:
        answer = aiter(llm.generate("Hello", ENDLESS))
        await anext(answer)
        await answer.aclose()  # type: ignore[attr-defined]
        await at_rest(llm)

    run(leave())


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("delay", [0.0, 0.0005, 0.003])
def test_cancelling_the_task_frees_the_request(llm: AsyncLLM, whole: bool, delay: float) -> None:
    async def read() -> None:
        if whole:
            await llm.generate("Hello " * 9, ENDLESS)
        else:
            async for _ in llm.generate("Hello " * 9, ENDLESS):
                pass

    async def cancel() -> None:
        task = asyncio.create_task(read())
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await at_rest(llm)

    run(cancel())


def test_abort_by_name(llm: AsyncLLM) -> None:
    async def abort() -> None:
        with pytest.raises(InvalidParameter, match="request_id"):
            llm.generate("Hello", request_id="")
        answer = aiter(llm.generate("Hello", sampled(1, n=2, max_tokens=200), request_id="mine"))
        await anext(answer)
        with pytest.raises(InvalidParameter, match="'mine' is still running"):
            await llm.generate("Hello", ENDLESS, request_id="mine")
        assert await llm.abort("mine")
        assert not await llm.abort("mine")
        assert not llm._llm._engine.has_unfinished, "free when abort returns"
        rest = [chunk async for chunk in answer]
        assert {c.finish_reason for c in rest[-2:]} == {"abort"}
        assert rest[-1].result is not None
        assert rest[-1].result.request_id == "mine"
        assert (await llm.generate("Hello", sampled(1), request_id="mine")).request_id == "mine"
        await at_rest(llm)

    run(abort())


def test_a_request_that_cannot_be_served_raises_and_hurts_nobody(llm: AsyncLLM) -> None:
    async def mixed() -> list[Any]:
        work = [llm.generate([1] * 300), llm.generate("Hello", sampled(1)), llm.generate([10**9]), llm.chat([])]
        return await asyncio.gather(*(asyncio.ensure_future(w) for w in work), return_exceptions=True)

    found = run(mixed())
    assert [type(r) for r in found[2:]] == [InvalidParameter, InvalidParameter]
    assert isinstance(found[0], ContextLengthExceeded)
    assert len(found[1].token_ids) == 30
    with pytest.raises(InvalidParameter, match="SamplingParams"):
        llm.generate("Hello", {"n": 1})  # type: ignore[arg-type]


def test_what_decides_about_admission_is_passed_on(llm: AsyncLLM) -> None:
    seen: list[Any] = []
    admission: dict[str, Any] = {"priority": -3, "tenant": "me", "cache_salt": "salt"}

    async def ask() -> None:
        for answer in (llm.generate("Hello", ENDLESS, **admission), llm.chat(HELLO, sampled(1), **admission)):
            task = asyncio.ensure_future(answer)
            while not llm._streams._of:
                await asyncio.sleep(0)
            seen.extend((r.priority, r.tenant, r.block_hashes._root) for r in list(llm._streams._of))
            await task
        with pytest.raises(InvalidParameter, match="priority"):
            await llm.generate("Hello", ENDLESS, priority=2**40)

    run(ask())
    assert seen == [(-3, "me", BlockHashes(salt="salt")._root)] * 2


def test_an_answer_is_read_once_and_queued_when_it_is_read(llm: AsyncLLM) -> None:
    async def twice() -> None:
        llm.generate("Hello", ENDLESS)  # never read, never begun
        answer = llm.generate("Hello", sampled(1))
        await answer
        with pytest.raises(InvalidRequest, match="read already"):
            await answer
        await at_rest(llm)

    run(twice())


def test_a_long_prompt_does_not_stop_the_loop(llm: AsyncLLM) -> None:
    late = []

    async def heartbeat() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - before)

    async def work() -> None:
        heart = asyncio.create_task(heartbeat())
        with pytest.raises(ContextLengthExceeded):
            await llm.generate("Hello world, this is a long text. " * 5_000)
        heart.cancel()

    run(work())
    assert len(late) > 10, "the loop ran meanwhile"


def test_closing_ends_what_runs_with_abort(path: Path) -> None:
    async def close() -> None:
        async with AsyncLLM(str(path), threads=1) as llm:
            answer = aiter(llm.generate("Hello", sampled(1, max_tokens=240)))
            await anext(answer)
            whole = asyncio.ensure_future(llm.generate("Bye", sampled(1, max_tokens=240)))
            while len(llm._streams._of) < 2:
                await asyncio.sleep(0)
            late = llm.generate("never read before the end")
        rest = [chunk async for chunk in answer]
        assert rest[-1].finish_reason == "abort"
        assert (await whole).finish_reason == "abort"
        for call in (late, llm.generate("x"), llm.chat(HELLO)):
            with pytest.raises(InvalidRequest, match="closed"):
                await call
        await llm.close()

    run(close())


def test_one_that_is_dropped_frees_its_thread(path: Path) -> None:
    llm = AsyncLLM(str(path), threads=1)
    run(whole(llm, "Hello", sampled(1)))
    thread = llm._thread._thread
    del llm
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_a_failed_step_ends_its_requests_with_an_error(path: Path) -> None:
    async def fail() -> None:
        async with AsyncLLM(str(path), threads=1) as llm:
            llm._llm._model.program.close()
            result = await llm.generate("Hello", ENDLESS)
            assert (result.finish_reason, result.text) == ("error", "")

    run(fail())


def test_an_engine_that_fails_reaches_every_waiter(path: Path) -> None:
    async def fail() -> None:
        async with AsyncLLM(str(path), threads=1) as llm:
            engine = llm._llm._engine
            step = engine.step

            def failing() -> Any:
                if len(list(engine.scheduler)) == 5:  # all of them wait
                    raise AssertionError("the books are wrong")
                return step()

            engine.step = failing  # type: ignore[method-assign]
            results = await asyncio.gather(*(llm.generate(f"prompt {i}", ENDLESS) for i in range(5)))
            assert {r.finish_reason for r in results} == {"error"}
            assert "AssertionError" in (results[0].outputs[0].error or "")
            assert all(r.metrics.total_time > 0 for r in results)
            with pytest.raises(ExecutorError, match="the engine failed"):
                await llm.generate("Hello", ENDLESS)

    run(fail())


def test_several_loops_share_one(llm: AsyncLLM) -> None:
    found: list[list[int]] = [[]] * 4

    def work(i: int) -> None:
        found[i] = run(whole(llm, "Hello", sampled(3))).token_ids

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [found[0]] * 4
    assert len(found[0]) == 30


def test_a_loop_that_ends_takes_its_requests_with_it(llm: AsyncLLM) -> None:
    loop = asyncio.new_event_loop()
    answer = aiter(llm.generate("Hello", ENDLESS))
    loop.run_until_complete(anext(answer))
    loop.close()
    run(at_rest(llm))


def test_an_idle_engine_costs_nothing(llm: AsyncLLM) -> None:
    run(whole(llm, "Hello", sampled(1)))
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.05


def test_random_cancels_leak_no_block(path: Path) -> None:
    """`make proof` has 20,000 of them."""
    llm = AsyncLLM(str(path), threads=1, kv_cache_memory="300KiB", max_model_len=160, max_num_seqs=16)
    ends = cancel_at_random(llm, 300)
    stats = llm._llm.stats()
    run(llm.close())
    assert ends["abort"] >= 300
    assert ends["length"] > 50
    assert "error" not in ends
    assert stats.prefix_cache_hits_total > 5_000
    assert stats.blocks_used == 0
    assert stats.preemptions_total > 5


def test_a_slow_grammar_holds_up_nobody(llm: AsyncLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are more of them than threads for prompts. A cancelled one leaves the others' alone; a bad one raises."""
    slow: Future[Any] = Future()
    monkeypatch.setattr(llm._llm._engine._intake._grammars, "submit", lambda form: slow)
    params = SamplingParams(structured_outputs=StructuredOutputs(choice=["a"]), max_tokens=3)

    async def ask() -> None:
        waiting = [asyncio.ensure_future(llm.generate("Hello", params)) for _ in range(4)]
        waiting += [asyncio.ensure_future(llm.chat(HELLO, params))]
        for _ in range(3):
            assert (await llm.generate("Hello", sampled(1))).outputs
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        assert not any(task.done() for task in waiting[1:])
        slow.set_exception(InvalidParameter("choice", "no such words"))
        for task in waiting[1:]:
            with pytest.raises(InvalidParameter, match="no such words"):
                await task
        await at_rest(llm)

    run(ask())

"""ModelClient over a real engine process, on a tiny model: the same answers as LLM, and nothing left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.engines import QUICK, SETTINGS, asked, children, open_files, serving, until, whole
from support.tiny_model import write_tiny_model

from pellucid import LLM, SamplingParams
from pellucid.errors import (
    ContextLengthExceeded,
    EngineFailed,
    EngineUnavailable,
    InvalidParameter,
    InvalidRequest,
    ModelNotFound,
    PellucidError,
    TemplateError,
    UnsupportedModel,
)
from pellucid.server.messages import Finished, GenerateRequest, RenderRequest, Started
from pellucid.server.model_client import ModelClient

T = TypeVar("T")
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def client(path: Path, runner: asyncio.Runner) -> Iterator[ModelClient]:
    before, files = children(), open_files()
    context = serving(path)
    yield runner.run(context.__aenter__())
    runner.run(context.__aexit__(None, None, None))
    assert children() == before
    assert open_files() == files


@pytest.fixture
def run(runner: asyncio.Runner) -> Any:
    def run(work: Coroutine[Any, Any, T]) -> T:
        return runner.run(asyncio.wait_for(work, 30))

    return run


@pytest.fixture(scope="module")
def llm(path: Path) -> Iterator[LLM]:
    with LLM(str(path), **SETTINGS) as llm:
        yield llm


async def at_rest(client: ModelClient) -> None:
    await until(lambda: client.num_calls == 0)
    steps = client.stats.steps_total
    await until(lambda: client.stats.num_running == client.stats.num_waiting == client.stats.blocks_used == 0)
    assert client.stats.steps_total >= steps


def test_many_answers_at_once_are_those_of_offline_runs(client: ModelClient, llm: LLM, run: Any) -> None:
    requests = [
        asked(f"prompt {i}", seed=i, n=1 + i % 3, logprobs=i % 4 or None, max_tokens=5 + i, stream=i % 2 == 0)
        for i in range(24)
    ]

    async def everything() -> list[Any]:
        return await asyncio.gather(*(whole(client, request) for request in requests))

    found = run(everything())
    expected = [llm.generate(request.prompt, request.params)[0] for request in requests]
    for answer, offline in zip(found, expected, strict=True):
        assert answer.outputs == offline.outputs
        assert answer.usage.completion_tokens == offline.usage.completion_tokens
        assert answer.receipt.seed == offline.receipt.seed
        assert 0 <= answer.metrics.queue_time <= answer.metrics.total_time
    run(at_rest(client))


def test_chats_render_and_answer_like_offline_ones(client: ModelClient, llm: LLM, run: Any) -> None:
    params = SamplingParams(temperature=0, max_tokens=8)
    request = GenerateRequest(messages=HELLO, params=params, request_id="chatcmpl-1")
    found, expected = run(whole(client, request)), llm.chat(HELLO, params)[0]
    assert found.outputs == expected.outputs
    assert (found.prompt, found.receipt.prompt) == (expected.prompt, expected.prompt)
    assert found.request_id == "chatcmpl-1"
    assert found.receipt.sampling_params["max_tokens"] == 8
    assert found.receipt.quantization == client.info.quantization
    assert run(client.render(RenderRequest(messages=HELLO))) == (expected.prompt, expected.prompt_token_ids)


def test_tokens_come_and_go(client: ModelClient, llm: LLM, run: Any) -> None:
    assert run(client.tokenize("abc <|im_end|>")) == llm.tokenize("abc <|im_end|>")
    ids = llm.tokenize("abc <|im_end|>", parse_special=True)
    assert run(client.tokenize("abc <|im_end|>", parse_special=True)) == ids
    assert run(client.detokenize(ids)) == llm.detokenize(ids)
    assert run(client.detokenize(ids, skip_special_tokens=True)) == "abc "


def test_reading_gives_the_same_numbers_as_offline(client: ModelClient, llm: LLM, run: Any) -> None:
    async def everything() -> tuple[Any, ...]:
        return await asyncio.gather(
            client.embed(["one", [1, 2, 3]], dimensions=5),
            client.score("one", ["two", "three"], pooling="last"),
            client.classify(["good"], ["yes", "no"], explain=True),
            whole(client, asked()),
        )

    vectors, scores, [label], answer = run(everything())
    expected = llm.embed(["one", [1, 2, 3]], dimensions=5)
    assert [v.floats() for v in vectors] == [e.embedding.tolist() for e in expected]
    assert [v.num_tokens for v in vectors] == [e.usage.prompt_tokens for e in expected]
    assert [s.score for s in scores] == [s.score for s in llm.score("one", ["two", "three"], pooling="last")]
    [offline] = llm.classify(["good"], ["yes", "no"], explain=True)
    assert (label.label, label.probabilities) == (offline.label, offline.probabilities)
    assert len(label.sentences) == len(offline.sentence_contributions)
    assert answer.outputs == llm.generate("Hello", asked().params)[0].outputs
    run(at_rest(client))


@pytest.mark.parametrize(
    ("request_", "error", "param"),
    [
        (GenerateRequest(prompt=[1, -1]), InvalidParameter, "prompt_token_ids"),
        (GenerateRequest(prompt=[10**6]), InvalidParameter, "prompt_token_ids"),
        (GenerateRequest(prompt=[]), InvalidParameter, "prompt"),
        (GenerateRequest(prompt="x", params=SamplingParams(logit_bias={10**6: 1.0})), InvalidParameter, "logit_bias"),
        (GenerateRequest(prompt="x", params=SamplingParams(max_tokens=10**6)), ContextLengthExceeded, None),
        (GenerateRequest(prompt="x" * 1000), ContextLengthExceeded, None),
        (GenerateRequest(messages=[{"role": "user"}]), PellucidError, None),
        (GenerateRequest(messages=HELLO, chat_template_kwargs={"messages": 1}), InvalidParameter, None),
        (GenerateRequest(prompt="\ud800"), InvalidRequest, None),
        (GenerateRequest(prompt="x", priority=2**40), InvalidParameter, "priority"),
    ],
)
def test_what_cannot_be_served_is_refused_as_offline_and_nothing_stays(
    client: ModelClient, run: Any, request_: GenerateRequest, error: type[PellucidError], param: str | None
) -> None:
    with pytest.raises(error) as caught:
        run(whole(client, request_))
    assert caught.value.http_status == 400
    if param is not None:
        assert caught.value.param == param  # type: ignore[attr-defined]
    run(at_rest(client))


def test_a_panic_in_the_tokenizer_is_an_internal_error_without_details(client: ModelClient, run: Any) -> None:
    with pytest.raises(PellucidError) as caught:
        run(whole(client, asked("fault:tokenizer-panic")))
    assert "secret" not in str(caught.value)
    assert (caught.value.http_status, caught.value.code) == (500, "internal_error")
    run(whole(client, asked()))


def test_leaving_an_answer_ends_it_in_the_engine(client: ModelClient, run: Any) -> None:
    async def leave() -> None:
        async with aclosing(client.generate(asked(max_tokens=200, n=3))) as answers:
            async for answer in answers:
                if not isinstance(answer, Started):
                    break
        task = asyncio.ensure_future(whole(client, asked(max_tokens=200)))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        reading = asyncio.ensure_future(client.embed(["text " * 40] * 50))
        await asyncio.sleep(0.02)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await at_rest(client)

    run(leave())


def test_a_slow_reader_gets_bigger_pieces_and_holds_up_nobody(client: ModelClient, run: Any) -> None:
    async def read() -> None:
        slow, fast = asked("slow", max_tokens=200, logprobs=1), asked("fast", max_tokens=200)
        pieces = []
        async with aclosing(client.generate(slow)) as answers:
            async for answer in answers:
                if isinstance(answer, Started):
                    expected = await whole(client, fast)
                    await asyncio.sleep(0.1)
                elif isinstance(answer, Finished):
                    result = answer.result
                else:
                    pieces.append(answer)
        assert len(expected.token_ids) == 200
        assert len(pieces) < 100
        assert [t for piece in pieces for t in piece.token_ids] == result.token_ids
        assert [e for piece in pieces for e in piece.logprobs] == result.logprobs
        assert "".join(piece.text for piece in pieces) == result.text

    run(read())


def test_the_numbers_of_a_heartbeat(client: ModelClient, run: Any) -> None:
    async def count() -> None:
        await at_rest(client)
        before = client.stats
        result = await whole(client, asked("count me", max_tokens=50))
        await until(lambda: client.stats.generation_tokens_total > before.generation_tokens_total)
        await at_rest(client)
        after = client.stats
        assert after.generation_tokens_total - before.generation_tokens_total == 50
        assert after.prompt_tokens_total - before.prompt_tokens_total == result.usage.prompt_tokens
        assert after.steps_total > before.steps_total
        assert after.blocks_free + after.blocks_used + after.blocks_cached == client.info.num_blocks
        assert after.seconds_without_step == 0

    run(count())


def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path, run: Any) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    unknown = write_tiny_model(tmp_path / "unknown.gguf", **{"general.architecture": "mystery"})

    async def load(model: Path) -> None:
        client = ModelClient("m", {"model": str(model)}, policy=QUICK)
        client.start()
        await client.attach()
        waiting = asyncio.ensure_future(whole(client, asked()))
        try:
            with pytest.raises(EngineFailed):
                await waiting
            assert client.state == "failed"
            with pytest.raises(EngineUnavailable):
                await client.tokenize("x")
            await client.ready()
        finally:
            await client.close()

    for model, error in (
        (tmp_path / "missing.gguf", ModelNotFound),
        (tmp_path / "bad.gguf", PellucidError),
        (unknown, UnsupportedModel),
    ):
        with pytest.raises(error):
            run(load(model))
    with pytest.raises(InvalidParameter):
        ModelClient("m", {"model": "x", "threads": 0})


def test_a_broken_template_breaks_chats_only(tmp_path: Path, run: Any) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", template="{% for %}")

    async def talk() -> None:
        async with serving(path) as client:
            with pytest.raises(TemplateError):
                await whole(client, GenerateRequest(messages=HELLO))
            await whole(client, asked())

    run(talk())


def test_closing_ends_every_call_and_the_process(path: Path, run: Any) -> None:
    async def close() -> None:
        before, files = children(), open_files()
        async with serving(path) as client:
            running = [asyncio.ensure_future(whole(client, asked(max_tokens=200))) for _ in range(3)]
            await until(lambda: client.stats.num_running == 3)
            assert len(children() - before) == 1
        assert client.state == "closed"
        for task in running:
            with pytest.raises(EngineUnavailable):
                await task
        with pytest.raises(EngineUnavailable):
            await client.tokenize("x")
        await client.close()
        assert children() == before
        assert open_files() == files

    run(close())


def test_draining_waits_for_what_is_there(client: ModelClient, run: Any) -> None:
    async def drain() -> None:
        task = asyncio.ensure_future(whole(client, asked(max_tokens=100)))
        await asyncio.sleep(0)
        await client.drained()
        assert task.done() or (await task)
        await client.drained()

    run(drain())


FRONT = """
import asyncio, os, sys
sys.path.insert(0, {tests!r})
from support.engines import QUICK, SETTINGS
from pellucid.server.model_client import ModelClient
client = ModelClient("m", {{"model": {path!r}, **SETTINGS}}, policy=QUICK)
client.start()
print(client._supervisor._child.process.pid, flush=True)
async def main():
    await client.attach()
    await client.ready()
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_an_engine_ends_with_its_front_whatever_happens(path: Path, stopped: bool) -> None:
    script = FRONT.format(path=str(path), tests=str(Path(__file__).parents[1]))
    front = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert front.stdout is not None
        engine = int(front.stdout.readline())
        assert front.stdout.readline() == "ready\n"
        os.kill(engine, signal.SIGTERM)  # the front's business
        os.kill(engine, signal.SIGINT)
        assert _alive(engine)
        if stopped:
            os.kill(engine, signal.SIGSTOP)
        front.kill()
        front.wait()
        deadline = time.monotonic() + 5
        while _alive(engine) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not _alive(engine)
    finally:
        front.kill()
        front.wait()
        front.stdout.close()


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"

"""`pellucid bench serve`: the same work for every server, every answer read and timed, every refusal counted."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import subprocess
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.command import COMMAND
from support.server import Server

from pellucid.errors import InvalidParameter, ResourceError
from pellucid.tools.bench_serve import LoadOptions, Sample, load, percentiles, sample_of, summary, timeline
from pellucid.tools.bench_serve_jobs import MIXES, arrivals, jobs
from pellucid.tools.bench_serve_plot import plot
from pellucid.tools.bench_serve_report import rows
from pellucid.tools.http_stream import Answer, Site, ask


def exchange(pieces: list[bytes], *, cancel_after: float | None = None) -> Answer:
    """The answer of a server that sends these pieces one after the other and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)
        if cancel_after is not None:
            assert await reader.read() == b'{"a": 1}'  # then the client has hung up
            gone.set()
        writer.close()

    async def run() -> Answer:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            site = Site.of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/", "key")
            try:
                return await asyncio.wait_for(ask(site, "POST", "/x", b'{"a": 1}'), cancel_after or 30)
            except TimeoutError:
                await asyncio.wait_for(gone.wait(), 5)
                raise

    gone = asyncio.Event()
    return asyncio.run(run())


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_stream_is_read_however_it_is_cut() -> None:
    events = b"data: one\n\n: ping\n\ndata: t", b'wo\n\nevent: x\ndata: {"a":0}\n\n', b"data: [DONE]\n\n"
    whole = STREAM + b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"
    for pieces in ([whole], [whole[i : i + 1] for i in range(len(whole))], [whole[:120], whole[120:]]):
        answer = exchange(pieces)
        assert answer.status == 200
        assert [data for _, data in answer.events] == [b"one", b"two", b'{"a":0}', b"[DONE]"]
        times = [answer.sent, *(at for at, _ in answer.events), answer.ended]
        assert times == sorted(times)
        assert len(pieces) < 10 or answer.events[0][0] < answer.ended


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 429 Too Many\r\nContent-Length: 4\r\n\r\nfu", b"ll"],
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 x\r\n\r\nfu", b"ll"],
    ],
    ids=["length", "to the end"],
)
def test_other_answers_are_read_whole(pieces: list[bytes]) -> None:
    answer = exchange(pieces)
    assert (answer.status, answer.body) == (429, b"full")


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc", STREAM + b"5\r\ndata", b"x\r\n\r\n"]
)
def test_what_ends_too_early_is_an_error(sent: bytes) -> None:
    with pytest.raises(ConnectionError):
        exchange([sent])


def test_who_gives_up_hangs_up() -> None:
    with pytest.raises(TimeoutError):
        exchange([STREAM], cancel_after=0.2)


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://x", "http://", "http://x:99999", "http://x/?a=1"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InvalidParameter, match="url"):
        Site.of(url)


@pytest.mark.parametrize("mix", MIXES)
def test_work_is_repeatable_and_shares_what_it_says(mix: str) -> None:
    work = jobs(mix, 500)
    assert work == jobs(mix, 500) != jobs(mix, 500, seed=1)
    assert work[:10] == jobs(mix, 10)
    assert len({job.system for job in work}) == 1
    assert len({job.prompt for job in work}) > 490
    shared = {"sharegpt": 0, "shared": 256, "short": 16}[mix]
    assert len(work[0].system.split()) == shared
    chat, plain = work[0].body("m", chat=True), work[0].body("m", chat=False)
    assert len(chat["messages"]) == (2 if shared else 1)  # type: ignore[arg-type]
    assert str(plain["prompt"]).startswith(work[0].system)


def test_lengths_are_those_that_the_mix_promises() -> None:
    chats, shared = jobs("sharegpt", 4000), jobs("shared", 4000)
    assert 170 < statistics.mean(len(job.prompt.split()) for job in chats) < 230
    assert 170 < statistics.mean(job.num_new for job in chats) < 210
    own = [len(job.prompt.split()) for job in shared]
    assert (min(own), max(own)) == (32, 512)
    assert {64, 256} <= {job.num_new for job in shared}


def test_poisson_arrivals() -> None:
    times = arrivals(10_000, 5.0)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert times == sorted(times)
    assert statistics.mean(gaps) == pytest.approx(0.2, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.2, rel=0.05)  # as of an exponential distribution


def event(text: str = "", **more: object) -> bytes:
    return json.dumps({"choices": [{"text": text}], **more}).encode()


def test_an_answer_becomes_a_sample() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    last = json.dumps({"choices": [], "usage": usage}).encode()
    events = [(1.5, event()), (2.0, event("a")), (2.25, event("b")), (2.5, last), (2.5, b"[DONE]")]
    assert sample_of(Answer(1.0, 200, b"", events, 3.0)) == Sample(None, 2.0, 1.0, (0.25,), 7, 3)
    assert sample_of(Answer(1.0, 200, b"", events[:2], 3.0)).error == "no usage"
    assert sample_of(Answer(1.0, 429, b"{}", [], 1.5)) == Sample("429", 0.5, detail="{}")
    assert sample_of(Answer(1.0, 429, retry_after=2.0)).retry_after == 2.0
    failed = b'{"error": {"code": "engine_restarting"}}'
    assert sample_of(Answer(1.0, 200, b"", [*events[:2], (2.5, failed)], 3.0)).error == "stream: engine_restarting"


def test_the_summary_counts() -> None:
    options = LoadOptions(concurrency=1, slo_ttft=1.0, slo_itl=0.1)
    samples = [
        Sample(None, 2.0, 0.5, (0.05, 0.15), 10, 3),  # good
        Sample(None, 2.0, 1.5, (0.05,), 10, 2),  # begins late
        Sample(None, 2.0, 0.5, (0.3,), 10, 2),  # goes on slowly
        Sample("429", 0.01),
        Sample("timeout", 9.0),
    ]
    found = summary(samples, 2.0, options)
    assert (found["answered"], found["errors"]) == (3, {"429": 1, "timeout": 1})
    assert (found["new_tokens"], found["new_tokens_per_second"]) == (7, 3.5)
    assert (found["requests_per_second"], found["goodput"]) == (1.5, 0.5)
    assert found["refusal"] == {"p50": 0.01, "p90": 0.01, "p99": 0.01}
    assert percentiles(range(1, 201)) == {"p50": 100, "p90": 180, "p99": 198}
    assert percentiles([]) is None


def test_the_timeline_has_everything_where_it_happened() -> None:
    samples = [Sample(None, 2.0, 0.5, (0.5, 0.25), 10, 6, sent=second) for second in (0.0, 1.0, 2.0, 3.0)] * 4
    found = timeline(samples, 4.0)
    assert [window["at"] for window in found] == [1.0, 3.0]
    assert found[0]["first_token"] == {"p50": 0.5, "p90": 0.5, "p99": 0.5}
    assert found[1]["between_tokens"] == {"p50": 0.25, "p90": 0.5, "p99": 0.5}
    assert sum(window["new_tokens_per_second"] * 2 for window in found) == 16 * 6
    assert timeline([], 1.0) == [{"at": 0.5, "first_token": None, "between_tokens": None, "new_tokens_per_second": 0.0}]


def test_the_picture_is_sound_and_has_a_line_for_each_percentile() -> None:
    options = LoadOptions(concurrency=2)
    samples = [Sample(None, 2.0, 0.1 * i, (0.05, 0.04), 10, 3, sent=i / 4) for i in range(1, 40)]
    result = {"model": "<m>", "options": asdict(options), **summary(samples, 12.0, options)}
    picture = ElementTree.fromstring(plot(result))
    texts = [element.text or "" for element in picture.iter() if element.tag.endswith("text")]
    assert texts[0].startswith("<m>: 2 clients, sharegpt")
    assert {"p50", "p90", "p99", "time to the first token, ms", "between tokens, ms"} <= set(texts)
    for element in picture.iter():
        for point in element.get("points", "").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= float(picture.get("width", "0"))
            assert 0 <= y <= float(picture.get("height", "0"))
    ElementTree.fromstring(plot({"model": "m", "options": asdict(options), **summary([], 1.0, options)}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one of them"),
        ({"concurrency": 1, "rate": 1.0}, "one of them"),
        ({"concurrency": 0}, "concurrency"),
        ({"rate": 0.0}, "rate"),
        ({"rate": 1.0, "mix": "long"}, "mix"),
        ({"rate": 1.0, "slo_itl": -1.0}, "slo_itl"),
    ],
)
def test_load_that_makes_no_sense_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        LoadOptions(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", [{"concurrency": 6}, {"rate": 200.0}, {"concurrency": 4, "slow_loris": 5}])
def test_a_running_server_is_measured(story_server: Server, how: dict[str, object]) -> None:
    result = load(f"{story_server.url}/v1", LoadOptions(num_requests=12, mix="short", **how))  # type: ignore[arg-type]
    work = jobs("short", 12)
    assert (result["model"], result["answered"], result["errors"]) == ("story", 12, {})
    assert result["new_tokens"] == sum(job.num_new for job in work)
    assert result["prompt_tokens"] >= sum(len(f"{job.system} {job.prompt}".split()) for job in work)
    assert 0 < result["first_token"]["p50"] <= result["first_token"]["p99"] <= result["whole"]["p99"]
    json.dumps(result)


def test_refusals_are_counted(story_path: Path) -> None:
    options = ["--max-num-seqs", "1", "--max-queue", "2", "--chat-template", "{{ messages[0].content }}"]
    with Server(str(story_path), *options) as server:
        result = load(server.url, LoadOptions(num_requests=40, concurrency=20, mix="short", chat=True))
    assert result["answered"] + result["errors"]["429"] == 40
    assert result["refusal"]["p50"] > 0
    assert ("  error: 429", str(result["errors"]["429"])) in rows(result)


def test_what_cannot_be_measured(story_server: Server) -> None:
    with pytest.raises(ResourceError, match="no OpenAI interface"):
        load("http://127.0.0.1:9", LoadOptions(concurrency=1))
    with pytest.raises(ResourceError, match=r"400.*chat template"):
        load(story_server.url, LoadOptions(concurrency=1, chat=True))


def test_the_command_serves_a_model_and_loads_it(story_path: Path, tmp_path: Path) -> None:
    arguments = ["-n", "8", "-c", "4", "--mix", "short", "--json", str(tmp_path / "result.json")]
    arguments += ["--plot", str(tmp_path / "load.svg")]
    done = subprocess.run(
        [*COMMAND, "bench", "serve", str(story_path), *arguments],
        capture_output=True, encoding="utf-8", timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "8 of 8" in done.stdout
    assert "time to the first token" in done.stdout
    assert json.loads((tmp_path / "result.json").read_text())["answered"] == 8
    assert "<svg" in (tmp_path / "load.svg").read_text()


def test_the_command_says_why_a_model_cannot_be_served() -> None:
    done = subprocess.run(
        [*COMMAND, "bench", "serve", "./no-such.gguf"], capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert done.returncode == 1
    assert "did not start" in done.stderr
    assert "no-such.gguf" in done.stderr

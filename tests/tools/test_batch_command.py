"""`pellucid batch`: one answer for each line, in order, whatever kills the run in between."""

import base64
import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat.tool_templates import HERMES
from support.command import COMMAND
from support.tiny_model import write_tiny_model
from support.tools import NOW

from pellucid import LLM
from pellucid.errors import InvalidParameter
from pellucid.tools.batch import BatchReport, BatchRun, BatchSettings
from pellucid.tools.batch_files import BatchInput, journal_path
from pellucid.tools.verify import read_results

SETTINGS = BatchSettings(("tiny",), receipts=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def llm(path: Path) -> Any:
    with LLM(str(path), threads=1, max_num_seqs=4, kv_cache_memory="300KiB", max_model_len=128) as llm:
        yield llm


def line(custom_id: str, body: Any, url: str = "/v1/completions", **fields: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body, **fields})


def requests(count: int) -> list[str]:
    """Completions and chats of several lengths, some of them with errors; most without a seed."""
    lines = []
    for i in range(count):
        body: dict[str, Any] = {"max_tokens": 1 + i % 13, "temperature": [0, 1, 1.5][i % 3], "n": 1 + (i % 5 == 0)}
        url = "/v1/completions"
        if i % 4 == 3:
            body |= {"messages": [{"role": "user", "content": f"question {i}"}], "logprobs": True, "top_logprobs": 2}
            url = "/v1/chat/completions"
        else:
            body |= {"prompt": [f"prompt {i}", f"another {i}"] if i % 7 == 0 else f"prompt {i}"}
        if i % 6 == 2:
            body, url = {"input": [f"text {i}", f"another {i}"], "encoding_format": "base64"}, "/v1/embeddings"
        if i % 11 == 5:
            body["frobnicate"] = 1
        if i % 13 == 5 and "input" not in body:
            body["seed"] = i
        lines.append(line(f"request {i}", body, url))
    return lines


def write(folder: Path, lines: list[str]) -> Path:
    file = folder / "in.jsonl"
    file.write_text("".join(f"{text}\n" for text in lines), "utf-8")
    return file


def run(llm: LLM, file: Path, settings: BatchSettings = SETTINGS) -> BatchReport:
    return BatchRun(llm, BatchInput(file), file.with_name("out.jsonl"), settings).run()


def answers(file: Path) -> list[Any]:
    return [json.loads(text) for text in file.with_name("out.jsonl").read_text("utf-8").splitlines()]


def test_answers_have_openais_shape(llm: LLM, tmp_path: Path) -> None:
    chat = {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 3,
        "logprobs": True,
        "top_logprobs": 2,
        "n": 2,
    }
    file = write(tmp_path, [
        line("c", chat | {"ignore_eos": True}, "/v1/chat/completions"),
        line("t", {"prompt": ["a", [5, 6]], "max_tokens": 4, "logprobs": 1, "model": "tiny", "ignore_eos": True}),
    ])  # fmt: skip
    assert run(llm, file, BatchSettings(("tiny",))) == BatchReport(2, 0, 0)
    first, second = answers(file)
    assert set(first) == {"id", "custom_id", "response", "error"}
    assert (first["custom_id"], first["error"], first["response"]["status_code"]) == ("c", None, 200)
    body = first["response"]["body"]
    assert (body["object"], body["model"], body["created"]) == ("chat.completion", "tiny", int(file.stat().st_mtime))
    assert [c["index"] for c in body["choices"]] == [0, 1]
    choice = body["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["content"]) == 3
    for position in choice["logprobs"]["content"]:
        assert len(position["top_logprobs"]) == 2
        assert bytes(position["bytes"]).decode() == position["token"]
        assert position["logprob"] <= position["top_logprobs"][0]["logprob"]
    assert body["usage"]["completion_tokens"] == 6
    assert "pellucid" not in body
    body = second["response"]["body"]
    assert body["object"] == "text_completion"
    assert [c["index"] for c in body["choices"]] == [0, 1]
    logprobs = body["choices"][0]["logprobs"]
    assert [len(logprobs[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [4] * 4
    assert body["usage"]["prompt_tokens"] == 3


def test_embeddings_are_those_of_the_library(llm: LLM, tmp_path: Path) -> None:
    options = {"pooling": "last", "dimensions": 8, "normalize": False}
    file = write(tmp_path, [
        line("a", {"input": "one"}, "/v1/embeddings"),
        line("b", {"input": ["one", [5, 6, 7]], "encoding_format": "base64", **options}, "/v1/embeddings"),
        line("c", {"input": "one", "max_tokens": 3}, "/v1/embeddings"),
        line("d", {"input": ""}, "/v1/embeddings"),
        line("e", {"input": "x" * 500}, "/v1/embeddings"),
        line("f", {"input": "x", "model": "other"}, "/v1/embeddings"),
    ])  # fmt: skip
    assert run(llm, file) == BatchReport(6, 0, 4)
    first, second, *refused = [answer["response"] for answer in answers(file)]
    [expected] = llm.embed("one")
    assert first["body"]["data"] == [{"object": "embedding", "index": 0, "embedding": expected.embedding.tolist()}]
    assert first["body"]["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert list(read_results(file.with_name("out.jsonl"))) == []
    others = llm.embed(["one", [5, 6, 7]], **options)  # type: ignore[arg-type]
    assert [base64.b64decode(item["embedding"]) for item in second["body"]["data"]] == [
        other.embedding.tobytes() for other in others
    ]
    assert [r["status_code"] for r in refused] == [400, 400, 400, 404]
    assert "max_tokens" in refused[0]["body"]["error"]["message"]


def test_tools_and_reasoning(tmp_path: Path) -> None:
    template = HERMES.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}") + "{# </think> #}"
    messages = [{"role": "user", "content": "x"}]
    file = write(tmp_path, [
        line("a", {"messages": messages, "max_tokens": 5, "ignore_eos": True}, "/v1/chat/completions"),
        line("b", {"messages": messages, "tools": [NOW], "tool_choice": "required", "parallel_tool_calls": False,
                   "reasoning_parser": "none", "max_tokens": 200}, "/v1/chat/completions"),
        line("c", {"messages": messages, "tools": "now"}, "/v1/chat/completions"),
    ])  # fmt: skip
    path = write_tiny_model(tmp_path / "m.gguf", template=template, context=1024)
    with LLM(str(path), threads=1) as llm:
        assert run(llm, file) == BatchReport(3, 0, 1)
    [thought], [called] = [answer["response"]["body"]["choices"] for answer in answers(file)[:2]]
    assert (thought["message"]["content"], thought["finish_reason"]) == ("", "length")
    assert thought["message"]["reasoning_content"]
    assert called["finish_reason"] == "tool_calls"
    [call] = called["message"]["tool_calls"]
    assert call["function"]["name"] == "now"
    assert json.loads(call["function"]["arguments"]) == {}


def test_a_line_that_cannot_be_served_is_an_error_and_the_others_are_answered(llm: LLM, tmp_path: Path) -> None:
    bad = [
        ({"prompt": "x", "frobnicate": 1}, {}, 400, "frobnicate"),
        ({"prompt": "x", "model": "gpt-4"}, {}, 404, "'gpt-4' is not served"),
        ({"prompt": [[1] * 500]}, {}, 400, "the context holds 128"),
        ({"prompt": ["fine", [10**9]]}, {}, 400, "prompt_token_ids"),
        ({"prompt": "x", "stream": True}, {}, 400, "whole answers"),
        ({"prompt": "x"}, {"url": "/v1/moderations"}, 400, "/v1/moderations"),
        ({"prompt": "x"}, {"method": "GET"}, 400, "method"),
        ("x", {}, 400, "body"),
        ({"prompt": "x"}, {"extra": 1}, 400, "extra"),
        ({"messages": []}, {"url": "/v1/chat/completions"}, 400, "messages"),
    ]
    lines = [line(f"bad {i}", body, **fields) for i, (body, fields, _, _) in enumerate(bad)]
    file = write(tmp_path, [*lines, line("good", {"prompt": "x", "max_tokens": 2})])
    assert run(llm, file) == BatchReport(11, 0, 10)
    *found, good = answers(file)
    assert good["response"]["status_code"] == 200
    for answer, (_, _, status, message) in zip(found, bad, strict=True):
        assert answer["response"]["status_code"] == status
        assert message in answer["response"]["body"]["error"]["message"]
        assert answer["error"] is None
    llm._engine.cache.check(idle=True)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([line("a", {}), "not json"], "line 2 .*not valid JSON"),
        ([line("a", {}), line("a", {})], "line 2 .*'a', which an earlier line has"),
        (['{"method": "POST"}'], "line 1 .*custom_id"),
        (["[1]"], "line 1 .*expected an object"),
        (['{"custom_id": ""}'], "line 1 .*custom_id"),
        (['{"custom_id": "a", "custom_id": "b"}'], "more than once"),
        (["[" * 100_000], "levels deep"),
        (["", "  "], "no lines"),
    ],
)
def test_files_that_are_no_batch_are_refused_whole(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        BatchInput(write(tmp_path, lines))


def test_a_run_repeats_to_the_byte_and_the_seed_decides(llm: LLM, tmp_path: Path) -> None:
    file = write(tmp_path, requests(30))
    out = file.with_name("out.jsonl")
    found = []
    for settings in (SETTINGS, SETTINGS, BatchSettings(("tiny",), seed=1, receipts=True)):
        run(llm, file, settings)
        found.append(out.read_bytes())
        assert list(tmp_path.iterdir()) == [file, out] or {p.name for p in tmp_path.iterdir()} == {file.name, out.name}
        out.unlink()
    assert found[0] == found[1] != found[2]


class Killed(Exception):
    pass


def interrupted(llm: LLM, file: Path, after: int, damage: Callable[[Path], None]) -> None:
    """Run until `after` lines are in the journal, stop as a kill would, then damage the end of the journal."""
    batch = BatchRun(llm, BatchInput(file), file.with_name("out.jsonl"), SETTINGS)
    append, count = batch._journal.append, 0

    def counting(i: int, answer: Any) -> None:
        nonlocal count
        append(i, answer)
        count += 1
        if count == after:
            raise Killed

    batch._journal.append = counting  # type: ignore[method-assign]
    with pytest.raises(Killed):
        batch.run()
    damage(journal_path(file.with_name("out.jsonl")))


def cut(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-20])


def zeros(part: Path) -> None:
    part.write_bytes(part.read_bytes() + bytes(100) + b"\n" + bytes(50))


def nothing(part: Path) -> None:
    pass


def headless(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:30])


@pytest.mark.parametrize("damage", [nothing, cut, zeros, headless])
def test_an_interrupted_run_goes_on(llm: LLM, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    file = write(tmp_path, requests(30))
    out = file.with_name("out.jsonl")
    run(llm, file)
    expected = out.read_bytes()
    out.unlink()
    for after in (1, 9, 4):
        interrupted(llm, file, after, damage)
        assert not out.exists()
    report = run(llm, file)
    assert out.read_bytes() == expected
    assert report.num_before == {nothing: 14, cut: 11, zeros: 14, headless: 0}[damage]
    assert report.num_errors == 3
    assert not journal_path(out).exists()
    llm._engine.cache.check(idle=True)


def test_a_kill_between_the_last_two_steps_changes_nothing(llm: LLM, tmp_path: Path) -> None:
    file = write(tmp_path, requests(5))
    out = file.with_name("out.jsonl")
    run(llm, file)
    expected = out.read_bytes()
    assert run(llm, file).num_before == 5, "once more: it is all there"
    assert out.read_bytes() == expected
    out.unlink()
    batch = BatchRun(llm, BatchInput(file), out, SETTINGS)
    batch._journal.finish = lambda: None  # type: ignore[method-assign]
    batch.run()
    out.write_bytes(expected)  # renamed, and killed before the journal was removed
    assert run(llm, file).num_before == 5
    assert out.read_bytes() == expected
    assert not journal_path(out).exists()


def test_what_cannot_go_on_is_refused(llm: LLM, tmp_path: Path) -> None:
    file = write(tmp_path, requests(6))
    out = file.with_name("out.jsonl")
    interrupted(llm, file, 2, nothing)
    with pytest.raises(InvalidParameter, match="seed was 0"):
        run(llm, file, BatchSettings(("tiny",), seed=1, receipts=True))
    write(tmp_path, requests(7))
    with pytest.raises(InvalidParameter, match="input was"):
        run(llm, file)
    write(tmp_path, requests(6))
    holder = BatchRun(llm, BatchInput(file), out, SETTINGS)
    with pytest.raises(InvalidParameter, match="another run"):
        run(llm, file)
    holder.run()
    write(tmp_path, requests(7))
    with pytest.raises(InvalidParameter, match="exists and is not the answer"):
        run(llm, file)
    assert not journal_path(out).exists()
    out.unlink()
    journal_path(out).write_text("something else\n")
    with pytest.raises(InvalidParameter, match="no journal"):
        run(llm, file)
    assert journal_path(out).read_text() == "something else\n", "nobody else's file is touched"


def test_memory_holds_only_what_is_near(llm: LLM, tmp_path: Path) -> None:
    file = write(tmp_path, requests(60))
    batch = BatchRun(llm, BatchInput(file), file.with_name("out.jsonl"), SETTINGS)
    take, most = batch._take, 0

    def watching(done: Any) -> None:
        nonlocal most
        most = max(most, len(batch._open))
        take(done)

    batch._take = watching  # type: ignore[method-assign]
    batch.run()
    assert 2 <= most <= 10


def num_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_kill_9_at_random(story_path: Path, tmp_path: Path, soak: bool) -> None:
    """The command itself, killed at random moments, writes what an unbroken run writes."""
    count, kills = (2_000, 10) if soak else (400, 2)
    lines = [
        line(f"r{i}", {"prompt": f"Once upon a time, number {i}", "max_tokens": 20 + i % 60, "ignore_eos": True})
        for i in range(count)
    ]
    file, out = write(tmp_path, lines), tmp_path / "out.jsonl"
    command = [*COMMAND, "batch", str(file), str(out), "-m", str(story_path), "-q", "--receipts", "-c", "256"]
    started = time.monotonic()
    subprocess.run(command, check=True, timeout=600)
    took = time.monotonic() - started
    expected = out.read_bytes()
    assert expected.count(b"\n") == count
    out.unlink()
    rng = random.Random(1)
    done = 1  # the journal's first line
    for _ in range(kills):
        process = subprocess.Popen(command)
        while process.poll() is None and num_lines(journal_path(out)) <= done:
            time.sleep(0.001)
        if soak:  # the short run may be over by then
            time.sleep(rng.uniform(0, 0.5) * took / kills)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = num_lines(journal_path(out))
    assert 1 < done < count + 1, "killed in the middle"
    subprocess.run(command, check=True, timeout=600)
    assert out.read_bytes() == expected

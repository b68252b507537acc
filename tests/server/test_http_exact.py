"""Answers through the server, at random load, beside cancelled and hostile requests, are those of offline single runs:
token for token, and log-probability bit for bit. `make proof` has 1,000 of them, and 100 of SmolLM2."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import httpx
from support.exact_answers import PATHS, Ask, offline
from support.exact_crowd import TEMPLATE, Report, compare, compare_crowd
from support.server import Server

from pellucid import LLM, SamplingParams
from pellucid.api.openai_schemas import COMPLETIONS
from pellucid.tools.http_stream import Site

NUM_REQUESTS = 40


def test_answers_are_those_of_single_runs(story_path: Path) -> None:
    report = compare_crowd(story_path, NUM_REQUESTS, template=TEMPLATE)
    assert report.differences == []
    assert report.num_requests == NUM_REQUESTS == sum(report.paths.values())
    assert report.paths.keys() == set(PATHS)
    assert report.num_answers > NUM_REQUESTS > report.num_streams > 0
    assert min(report.num_hostile, report.num_cached_tokens) > 0
    assert report.num_logprobs > report.num_tokens


def test_one_wrong_bit_is_found(story_server: Server, story_path: Path) -> None:
    own = Ask("/v1/completions", {"prompt": "Once", "max_tokens": 8, "seed": 1, "receipt": True, "logprobs": 1})
    with LLM(str(story_path)) as llm:
        right = offline(llm, own)

    def differences() -> list[str]:
        report = Report()
        asyncio.run(compare(Site.of(story_server.url), own, right, report))
        return report.differences

    assert differences() == []
    logprobs = right["choices"][0]["logprobs"]["token_logprobs"]
    logprobs[3] = math.nextafter(logprobs[3], 0)
    right["answers"][0][5] += 1
    assert [line.split(" of ")[0] for line in differences()] == ["answers", "choices"]


def test_echo_has_the_logprobs_of_the_library(story_server: Server, story_path: Path) -> None:
    params = SamplingParams(max_tokens=4, temperature=0, logprobs=2, prompt_logprobs=2, echo=True)
    with LLM(str(story_path), max_model_len=256) as llm:
        for prompt in ("Once upon a time, a\u0301 \U0001f600 dog", [10, 11, 12]):
            (result,) = llm.generate([prompt], params)
            body = {"prompt": prompt, "max_tokens": 4, "temperature": 0, "logprobs": 2, "echo": True}
            (choice,) = httpx.post(f"{story_server.url}{COMPLETIONS}", json=body).json()["choices"]
            assert choice["text"] == result.text
            found = choice["logprobs"]
            prompt_logprobs = result.prompt_logprobs or []
            expected = [p and next(iter(p.values())) for p in [*prompt_logprobs, *(result.logprobs or [])]]
            assert found["token_logprobs"] == [e and e.logprob for e in expected]
            assert found["tokens"][1:] == [e.decoded_token for e in expected if e is not None]
            assert len(found["top_logprobs"]) == len(found["tokens"])
            for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
                assert choice["text"][offset:].startswith(token) or "\ufffd" in token or token == " " or token[0] == "<"
            assert found["text_offset"][-1] == choice["text"].rfind(found["tokens"][-1])

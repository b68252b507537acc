"""Many prompts through one LLM: bounded memory, the same answers, and no request that stops the others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tiny_model import write_tiny_model

from pellucid import LLM, SamplingParams
from pellucid.engine.progress import ProgressBar
from pellucid.errors import ContextLengthExceeded, InvalidParameter, InvalidRequest

MOST = 8  # twice max_num_seqs


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")
    with LLM(str(path), threads=1, max_num_seqs=MOST // 2, kv_cache_memory="300KiB", max_model_len=128) as llm:
        yield llm


def sampled(seed: int, **settings: Any) -> SamplingParams:
    return SamplingParams(seed=seed, temperature=2.0, ignore_eos=True, **{"max_tokens": 1 + seed % 9, **settings})


def num_queued(llm: LLM) -> int:
    return len(list(llm._engine.scheduler))


def test_prompts_are_taken_when_their_turn_is_near(llm: LLM) -> None:
    taken = 0

    def prompts() -> Iterator[str]:
        nonlocal taken
        for i in range(60):
            taken += 1
            yield f"prompt {i}"

    params = [sampled(i) for i in range(60)]
    found = {}
    for i, result in llm.as_completed(prompts(), iter(params)):
        found[i] = result
        assert taken <= len(found) + MOST
    assert not llm._engine.has_unfinished
    llm._engine.cache.check(idle=True)
    expected = llm.generate([f"prompt {i}" for i in range(60)], params)
    assert sorted(found) == list(range(60))
    assert list(found) != sorted(found), "short answers are complete before long ones"
    assert [found[i].outputs for i in range(60)] == [r.outputs for r in expected]
    assert [r.prompt for r in expected] == [f"prompt {i}" for i in range(60)]


def test_generate_queues_only_so_many(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    step, most = llm._engine.step, 0

    def counting() -> Any:
        nonlocal most
        most = max(most, num_queued(llm))
        return step()

    monkeypatch.setattr(llm._engine, "step", counting)
    results = llm.generate(["a"] * 40, sampled(2, n=3))
    assert len(results) == 40
    assert MOST <= most < MOST + 3, "a prompt of three answers is queued as one"


def test_one_that_cannot_be_served_is_an_error_among_answers(llm: LLM) -> None:
    prompts = ["fine", [1] * 300, 5, "fine, too"]
    results = dict(llm.as_completed(prompts, SamplingParams(max_tokens=3, ignore_eos=True)))  # type: ignore[arg-type]
    assert [results[i].finish_reason for i in range(4)] == ["length", "error", "error", "length"]
    assert "300 tokens" in (results[1].outputs[0].error or "")
    assert "expected text" in (results[2].outputs[0].error or "")
    assert results[1].usage.total_tokens == 0
    with pytest.raises(ContextLengthExceeded):
        llm.generate(["fine", [1] * 300])


def test_leaving_the_loop_ends_the_rest(llm: LLM) -> None:
    for _ in llm.as_completed(["a"] * 50, sampled(8)):
        assert num_queued(llm) > 0
        break
    assert num_queued(llm) == 0
    llm._engine.cache.check(idle=True)


def test_prompts_that_fail_end_the_rest(llm: LLM) -> None:
    def prompts() -> Iterator[str]:
        yield "a"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        list(llm.as_completed(prompts()))
    assert num_queued(llm) == 0


@pytest.mark.parametrize(
    ("prompts", "params", "message"),
    [
        (["a", "b"], [sampled(1)], "for prompt 1"),
        (["a"], [sampled(1), sampled(2)], "more than prompts"),
        (["a"], [None], "for prompt 0"),
        (["a"], 5, "params"),
        ("text", None, "one after the other"),
        (5, None, "one after the other"),
    ],
)
def test_what_does_not_fit_together(llm: LLM, prompts: Any, params: Any, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        list(llm.as_completed(prompts, params))
    assert num_queued(llm) == 0


def test_a_closed_one_says_so(tmp_path: Path) -> None:
    llm = LLM(str(write_tiny_model(tmp_path / "tiny.gguf")), threads=1)
    llm.close()
    with pytest.raises(InvalidRequest, match="closed"):
        list(llm.as_completed(["a"]))


def test_the_bar_is_shown_when_asked_for(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(["a", "b"], sampled(1))
    assert capsys.readouterr().err == "", "not a terminal"
    llm.generate(["a", "b"], sampled(1), progress=True)
    assert "2/2" in capsys.readouterr().err
    list(llm.as_completed(iter(["a", "b"]), sampled(1), progress=True))
    assert "2/?" in capsys.readouterr().err


def test_the_bar_counts_what_was_done_before(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(10, show=True, done=8) as bar:
        bar.advance(5)
        bar.advance(5)
    assert "10/10" in capsys.readouterr().err

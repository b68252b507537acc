"""An engine step that is broken off anywhere by Ctrl-C: the books are sound afterwards and answers are right."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from support.fake_model import VOCAB_SIZE, ByteTokenizer, FakeProgram

import pellucid
from pellucid.config import EngineConfig
from pellucid.engine.engine import Engine
from pellucid.engine.readout import TokenLogprobs
from pellucid.engine.request import Request
from pellucid.sampling import SamplingParams

PACKAGE = str(Path(pellucid.__file__).parent)


def make() -> Engine:
    config = EngineConfig(model="fake", max_num_seqs=3, prefill_chunk=20)
    return Engine(FakeProgram(num_blocks=8), ByteTokenizer(), config, vocab_size=VOCAB_SIZE, max_model_len=112)  # type: ignore[arg-type]


def workload(engine: Engine) -> list[Request]:
    """Shared prefixes, two answers to one prompt, log-probabilities and a readout, in a cache too small for all."""
    params: dict[str, Any] = {"max_tokens": 24, "ignore_eos": True, "seed": 3}
    requests = engine.add_request([7] * 33, SamplingParams(n=2, logprobs=1, repetition_penalty=1.3, **params))
    requests += engine.add_request([7] * 20, SamplingParams(prompt_logprobs=1, **params), priority=-1)
    requests += engine.add_request([9] * 40, SamplingParams(stop="zzz", **params), tenant="other")
    return [*requests, engine.add_readout([7] * 20, TokenLogprobs(15, [[1, 2]] * 4))]


def outcome(request: Request) -> Any:
    if isinstance(request.readout, TokenLogprobs):
        return request.readout.logprobs
    return request.token_ids, request.text.text, request.logprobs, request.prompt_logprobs


def finish(engine: Engine) -> None:
    for _ in range(200):
        if not engine.has_unfinished:
            break
        engine.step()
        engine.cache.check()
    assert not engine.has_unfinished
    engine.cache.check(idle=True)


class Interruption:
    """Raises KeyboardInterrupt at the `at`-th line of ours that is run; later than the last one, it only counts."""

    def __init__(self, at: int) -> None:
        self.num_left = at

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self.num_left -= 1
            if self.num_left == 0:
                raise KeyboardInterrupt
        return self


def interrupted(at: int) -> tuple[list[Request], bool]:
    engine = make()
    requests = workload(engine)
    engine.step()
    interruption = Interruption(at)
    before = sys.gettrace()
    sys.settrace(interruption)
    try:
        while engine.has_unfinished:
            engine.step()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    finish(engine)
    return requests, interruption.num_left <= 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_line() -> None:
    engine = make()
    expected = workload(engine)
    finish(engine)
    assert engine.stats().preemptions_total > 0
    num_torn = num_interrupted = 0
    for at in np.unique(np.geomspace(1, 20_000, 60).astype(int)):
        requests, was_interrupted = interrupted(int(at))
        torn = [r for r in requests if r.finish_reason == "error"]
        assert len(torn) <= 1, [r.error for r in torn]
        for before, after in zip(expected, requests, strict=True):
            assert after in torn or outcome(after) == outcome(before), f"interrupted at line {at}"
        num_torn += len(torn)
        num_interrupted += was_interrupted
    assert num_interrupted > 35
    assert num_torn < num_interrupted / 2, "a request is only given up while it gets a token"

"""Requests whose grammar is still being compiled: they wait, nobody else does, and a bad one fails alone."""

import time
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from support.fake_model import VOCAB_SIZE, ByteTokenizer, FakeProgram

from pellucid.config import EngineConfig
from pellucid.engine.engine import Engine
from pellucid.errors import InvalidParameter
from pellucid.sampling import SamplingParams
from pellucid.structured_outputs import StructuredOutputs


class Only:
    """A constraint that allows one token, `length` times."""

    def __init__(self, token: int, length: int) -> None:
        self._token, self._left = token, length

    def mask(self) -> np.ndarray:
        bits = np.zeros(-(-VOCAB_SIZE // 32), np.uint32)
        bits[self._token // 32] = np.uint32(1 << self._token % 32)
        return bits

    def accept(self, token: int) -> None:
        assert token == self._token
        self._left -= 1

    @property
    def is_finished(self) -> bool:
        return self._left == 0


@pytest.fixture
def grammar() -> Future[Any]:
    return Future()


@pytest.fixture
def engine(grammar: Future[Any], monkeypatch: pytest.MonkeyPatch) -> Engine:
    config = EngineConfig(model="fake")
    engine = Engine(FakeProgram(), ByteTokenizer(), config, vocab_size=VOCAB_SIZE, max_model_len=200)  # type: ignore[arg-type]
    monkeypatch.setattr(engine._intake._grammars, "submit", lambda form: grammar)
    return engine


CONSTRAINED = SamplingParams(structured_outputs=StructuredOutputs(choice=["aaa"]), max_tokens=9, n=2)
PLAIN = SamplingParams(max_tokens=5, ignore_eos=True)


def finish(engine: Engine) -> None:
    while engine.has_unfinished:
        engine.step()
        engine.cache.check()


def test_others_go_on_and_then_each_answer_has_a_constraint_of_its_own(engine: Engine, grammar: Future[Any]) -> None:
    constrained = engine.add_request([1] * 20, CONSTRAINED)
    [plain] = engine.add_request([1] * 20, PLAIN)
    while plain.finish_reason is None:
        assert engine.step() == [plain]
    assert [r.num_output_tokens for r in constrained] == [0, 0]
    assert engine.stats().num_waiting == 2
    grammar.set_result(lambda: Only(97, 3))
    finish(engine)
    assert [(r.text.text, r.finish_reason) for r in constrained] == [("aaa", "stop")] * 2


def test_steps_wait_when_there_is_nothing_else_to_do(engine: Engine, grammar: Future[Any]) -> None:
    engine.add_request([1], CONSTRAINED)
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(10):
        assert engine.step() == []
    assert time.perf_counter() - began >= 0.09
    assert time.process_time() - cpu < 0.05
    grammar.set_result(lambda: Only(97, 3))
    finish(engine)


def test_a_grammar_that_fails_ends_its_own_requests(engine: Engine, grammar: Future[Any]) -> None:
    constrained = engine.add_request([1] * 20, CONSTRAINED)
    [plain] = engine.add_request([1] * 20, PLAIN)
    engine.step()
    grammar.set_exception(InvalidParameter("choice", "no such words"))
    assert set(constrained) <= set(engine.step())
    assert [(r.finish_reason, r.error) for r in constrained] == [("error", "choice: no such words")] * 2
    finish(engine)
    assert plain.finish_reason == "length"
    with pytest.raises(InvalidParameter, match="no such words"):
        engine.add_request([1], CONSTRAINED)
    assert not engine.has_unfinished


def test_one_that_waits_can_be_aborted(engine: Engine, grammar: Future[Any]) -> None:
    constrained = engine.add_request([1], CONSTRAINED)
    engine.abort(constrained)
    assert not engine.has_unfinished
    assert engine.step() == []
    grammar.set_result(lambda: Only(97, 3))
    assert engine.step() == []

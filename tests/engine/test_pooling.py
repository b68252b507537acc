"""Embeddings: equal to their definition, the same in any company, and refused where they cannot be had whole."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fake_model import BOS, ByteTokenizer, FakeProgram
from support.invariance import VOCAB_SIZE, compiled, forty, quantised_graph
from support.steps import full_hidden
from support.tiny_model import HIDDEN as WIDTH
from support.tiny_model import write_tiny_model

from pellucid import LLM, SamplingParams
from pellucid.config import EngineConfig
from pellucid.engine.engine import Engine
from pellucid.engine.readout import Pooler, Pooling
from pellucid.errors import ContextLengthExceeded, ExecutorError, InvalidParameter, InvalidRequest
from pellucid.executors.base import Program
from pellucid.executors.cpu import CpuExecutor
from pellucid.executors.reference import ReferenceExecutor
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.graph.passes.hidden import hidden
from pellucid.models.registry import build_model

POOLINGS: list[Pooling] = ["mean", "last", "cls"]
TEXTS = ["Hello", "A somewhat longer text, of more than one block of tokens.", "ab" * 40, "é"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def llm(path: Path) -> Iterator[LLM]:
    with LLM(str(path), threads=1, kv_cache_memory="4MiB") as llm:
        yield llm


def defined(states: np.ndarray, pooling: str) -> np.ndarray:
    """[E] of hidden states [T, E], with length 1."""
    pooled = {"mean": states.mean(axis=0), "last": states[-1], "cls": states[0]}[pooling]
    return pooled / np.linalg.norm(pooled)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_embeddings_are_those_of_the_reference_in_float64(llm: LLM, path: Path, pooling: Pooling) -> None:
    with open_checkpoint(path) as checkpoint:
        program = ReferenceExecutor("float64").compile(hidden(build_model(checkpoint)[1]), 16)
    for text, output in zip(TEXTS, llm.embed(TEXTS, pooling=pooling), strict=True):
        assert output.prompt == text
        assert output.prompt_token_ids == llm.tokenize(text)
        assert output.embedding.dtype == np.float32
        assert output.usage.prompt_tokens == output.usage.total_tokens == len(output.prompt_token_ids)
        expected = defined(full_hidden(program, output.prompt_token_ids), pooling)
        np.testing.assert_allclose(output.embedding, expected, rtol=0, atol=2e-6)


def test_dimensions_are_cut_before_the_length_is_made_one(llm: LLM) -> None:
    [whole], [raw], [short] = (
        llm.embed(TEXTS[1], **options) for options in ({}, {"normalize": False}, {"dimensions": 5})
    )
    assert whole.embedding.shape == (WIDTH,)
    assert np.linalg.norm(raw.embedding) != pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(whole.embedding, raw.embedding / np.linalg.norm(raw.embedding), atol=1e-6)
    np.testing.assert_allclose(short.embedding, raw.embedding[:5] / np.linalg.norm(raw.embedding[:5]), atol=1e-6)
    [raw_short] = llm.embed(TEXTS[1], normalize=False, dimensions=5)
    np.testing.assert_array_equal(raw_short.embedding, raw.embedding[:5])


def test_score_is_the_cosine(llm: LLM) -> None:
    query, *documents = (output.embedding for output in llm.embed(TEXTS))
    scores = llm.score(TEXTS[0], TEXTS[1:])
    assert [s.score for s in scores] == pytest.approx([float(query @ document) for document in documents], abs=1e-6)
    assert [s.prompt_token_ids for s in scores] == [llm.tokenize(text) for text in TEXTS[1:]]
    assert llm.score(TEXTS[0], TEXTS[0])[0].score == pytest.approx(1, abs=1e-6)
    assert llm.score(TEXTS[0], []) == []


def test_token_ids_are_texts_too(llm: LLM) -> None:
    [by_text] = llm.embed("Hello")
    [by_ids] = llm.embed(llm.tokenize("Hello"))
    assert by_ids.prompt is None
    np.testing.assert_array_equal(by_ids.embedding, by_text.embedding)
    assert llm.embed([]) == []


def test_a_text_may_fill_the_context_but_is_never_cut(path: Path) -> None:
    with LLM(str(path), threads=1, max_model_len=32) as llm:
        assert llm.embed([[1] * 32], pooling="last")[0].usage.prompt_tokens == 32
        with pytest.raises(ContextLengthExceeded, match="the text has 33 tokens, but the context holds 32"):
            llm.embed(["fine", [1] * 33])


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("", {}, "it has no tokens"),
        (["fine", ""], {}, "it has no tokens"),
        ([["no ids"]], {}, "prompt_token_ids"),
        ([[10**6]], {}, "prompt_token_ids: expected an integer from 0 to"),
        ([None], {}, "prompt"),
        ("Hello", {"pooling": "max"}, "pooling: expected one of mean, last, cls"),
        ("Hello", {"normalize": 1}, "normalize"),
        ("Hello", {"dimensions": 0}, "dimensions: expected an integer from 1 to 32"),
        ("Hello", {"dimensions": 33}, "dimensions: expected an integer from 1 to 32"),
    ],
)
def test_what_cannot_be_embedded_is_refused(llm: LLM, texts: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        llm.embed(texts, **options)
    assert len(llm.embed("still here")) == 1


def test_a_closed_model_embeds_nothing(path: Path) -> None:
    llm = LLM(str(path), threads=1, max_model_len=32)
    llm.close()
    with pytest.raises(InvalidRequest, match="closed"):
        llm.embed("Hello")


def vectors(program: Program, prompts: list[list[int]], *, together: int, chunk: int | None, company: bool) -> list:
    """[pooling][prompt] → vector, all poolings of all prompts in one engine, with requests that generate between."""
    config = EngineConfig(
        model="test", max_num_seqs=together, max_num_batched_tokens=max(together, 256), prefill_chunk=chunk
    )
    engine = Engine(program, ByteTokenizer(), config, vocab_size=VOCAB_SIZE, max_model_len=224)  # type: ignore[arg-type]
    poolers = [[Pooler(pooling, len(p)) for p in prompts] for pooling in POOLINGS]
    for i, prompt in enumerate(prompts):
        for own in poolers:
            engine.add_readout(prompt, own[i])
        if company:
            engine.add_request(prompt[::-1], SamplingParams(max_tokens=3, temperature=0))
    while engine.has_unfinished:
        engine.step()
    engine.cache.check(idle=True)
    return [[pooler.vector.tolist() for pooler in own] for own in poolers]


def test_embeddings_do_not_depend_on_company_or_chunks() -> None:
    prompts = [ask.prompt for ask in forty()][:22]
    graph = hidden(quantised_graph(fused=False))
    expected = vectors(compiled(CpuExecutor(threads=1), graph), prompts, together=1, chunk=None, company=False)
    assert len({tuple(v) for own in expected for v in own}) > 50
    program = compiled(CpuExecutor(threads=2), graph)
    for together, chunk in product([3, 40], [None, 7, 33]):
        assert vectors(program, prompts, together=together, chunk=chunk, company=True) == expected
    scarce = compiled(CpuExecutor(threads=2), graph, sequences=1)
    assert vectors(scarce, prompts, together=40, chunk=33, company=True) == expected


def test_a_pooler_counts_every_row_once() -> None:
    rows = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    pooler = Pooler("mean", 9)
    for start, stop in [(0, 4), (4, 4), (4, 9)]:
        pooler.take(rows[start:stop])
        assert pooler.wanted == range(stop, 9)
    np.testing.assert_allclose(pooler.vector, rows.astype(np.float64).mean(axis=0), rtol=1e-15)


def test_rows_that_are_not_finite_end_the_text_alone() -> None:
    config = EngineConfig(model="test", max_num_seqs=4)
    program = FakeProgram(hidden=lambda tokens: np.full(3, np.nan if 7 in tokens else len(tokens), np.float32))
    engine = Engine(program, ByteTokenizer(), config, vocab_size=VOCAB_SIZE, max_model_len=64)  # type: ignore[arg-type]
    good, bad = Pooler("mean", 3), Pooler("last", 2)
    requests = [engine.add_readout([BOS, 1, 2], good), engine.add_readout([BOS, 7], bad)]
    while engine.has_unfinished:
        engine.step()
    assert [r.finish_reason for r in requests] == ["stop", "error"]
    assert requests[1].error == "hidden states are not finite; the model file may be damaged"
    assert good.vector.tolist() == [2, 2, 2]


def test_a_failed_text_is_named(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Pooler, rows: np.ndarray) -> None:
        raise ExecutorError("it broke")

    monkeypatch.setattr(Pooler, "take", broken)
    with pytest.raises(ExecutorError, match="text 0 could not be read: it broke"):
        llm.embed(["a", "b"])
    monkeypatch.undo()
    assert len(llm.embed("still here")) == 1

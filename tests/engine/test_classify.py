"""Classification: probabilities as defined, in any company; labels and templates that cannot work are refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.steps import full_forward
from support.tiny_model import write_tiny_model

from pellucid import LLM
from pellucid.engine.classify import CONTENT_FREE, DEFAULT_TEMPLATE, ClassificationOutput
from pellucid.engine.explain import log_odds, sentences, without_each
from pellucid.errors import ContextLengthExceeded, InvalidParameter
from pellucid.executors.reference import ReferenceExecutor
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.models.registry import build_model

LABELS = ["good", "bad", "x", "rather long label"]
TEXTS = ["It rained.", "ab? No! ab.", ""]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def llm(path: Path) -> Iterator[LLM]:
    with LLM(str(path), threads=1, kv_cache_memory="4MiB") as llm:
        yield llm


Likelihood = Callable[[str, str], np.ndarray]


@pytest.fixture(scope="module")
def likelihood(llm: LLM, path: Path) -> Likelihood:
    """The log-probability of each token of " label" after a prompt, by a whole forward pass in float64."""
    with open_checkpoint(path) as checkpoint:
        program = ReferenceExecutor("float64").compile(build_model(checkpoint)[1], 16)

    def likelihood(prompt: str, label: str) -> np.ndarray:
        before, added = llm.tokenize(prompt), llm.tokenize(f" {label}", add_special=False)
        logits = full_forward(program, before + added).astype(np.float64)[len(before) - 1 : -1]
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logprobs[np.arange(len(added)), added]

    return likelihood


def scores(likelihood: Likelihood, text: str, template: str, content_free: Sequence[str]) -> dict[str, np.ndarray]:
    """For each label what each of its tokens contributes."""
    found = {}
    for label in LABELS:
        neutral = [likelihood(template.replace("{text}", other), label) for other in content_free]
        found[label] = likelihood(template.replace("{text}", text), label) - (
            np.mean(neutral, axis=0) if neutral else 0
        )
    return found


@pytest.mark.parametrize("calibrate", [True, False, ["nothing"]])
@pytest.mark.parametrize("template", [None, "Say: {text} It is"])
def test_probabilities_are_those_of_the_definition(
    llm: LLM, likelihood: Likelihood, template: str | None, calibrate: bool | list[str]
) -> None:
    content_free = {True: CONTENT_FREE, False: ()}[calibrate] if isinstance(calibrate, bool) else calibrate
    for text, output in zip(TEXTS, llm.classify(TEXTS, LABELS, template=template, calibrate=calibrate), strict=True):
        expected = scores(likelihood, text, template or DEFAULT_TEMPLATE, content_free)
        for label, tokens in output.token_contributions.items():
            np.testing.assert_allclose([t.contribution for t in tokens], expected[label], rtol=0, atol=2e-5)
            assert "".join(t.token for t in tokens) == f" {label}"
        totals = np.array([own.sum() for own in expected.values()])
        probabilities = np.exp(totals) / np.exp(totals).sum()
        assert list(output.probabilities) == LABELS
        np.testing.assert_allclose(list(output.probabilities.values()), probabilities, rtol=1e-4)
        assert sum(output.probabilities.values()) == pytest.approx(1, abs=1e-12)
        assert output.label == LABELS[int(probabilities.argmax())]
        assert output.text == text
        assert output.prompt == (template or DEFAULT_TEMPLATE).replace("{text}", text)
        assert output.prompt_token_ids == llm.tokenize(output.prompt)
        assert output.calibration == tuple(content_free)
        assert output.sentence_contributions is None


def test_a_sentence_contributes_what_is_lost_without_it(llm: LLM, likelihood: Likelihood) -> None:
    def odds(text: str, label: str) -> float:
        totals = {k: float(v.sum()) for k, v in scores(likelihood, text, DEFAULT_TEMPLATE, CONTENT_FREE).items()}
        return totals[label] - float(np.log(sum(np.exp(v) for k, v in totals.items() if k != label)))

    [output] = llm.classify("It rained. ab ab! No.", LABELS, explain=True)
    assert output.sentence_contributions is not None
    assert [s.text for s in output.sentence_contributions] == ["It rained.", "ab ab!", "No."]
    rests = ["ab ab! No.", "It rained. No.", "It rained. ab ab!"]
    for sentence, rest in zip(output.sentence_contributions, rests, strict=True):
        expected = odds(output.text, output.label) - odds(rest, output.label)
        assert sentence.contribution == pytest.approx(expected, abs=1e-4)
    assert llm.classify("", LABELS, explain=True)[0].sentence_contributions == []


def figures(outputs: list[ClassificationOutput]) -> list[Any]:
    return [(o.label, o.probabilities, o.token_contributions, o.sentence_contributions) for o in outputs]


def test_results_do_not_depend_on_company_or_chunks(path: Path, llm: LLM) -> None:
    texts = [f"{'ab ' * (i % 7)}Text {i}. And more." for i in range(12)]
    expected = [figures(llm.classify(text, LABELS, explain=True))[0] for text in texts]
    for settings in ({"max_num_seqs": 1}, {"max_num_seqs": 7, "prefill_chunk": 5}, {"max_num_batched_tokens": 64}):
        with LLM(str(path), threads=2, **{"max_num_seqs": 16, "kv_cache_memory": "1MiB", **settings}) as other:
            assert figures(other.classify(texts, LABELS, explain=True)) == expected


def test_the_order_of_labels_changes_no_probability_but_the_tie(llm: LLM) -> None:
    [forward] = llm.classify(TEXTS[0], LABELS)
    [backward] = llm.classify(TEXTS[0], LABELS[::-1])
    assert backward.label == forward.label
    assert backward.probabilities == pytest.approx(forward.probabilities, abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": [None]}, "texts: expected text"),
        ({"texts": 5}, "texts: expected text"),
        ({"labels": []}, "labels: expected 2 to 1000 labels, got 0"),
        ({"labels": ["one"]}, "labels: expected 2 to 1000 labels, got 1"),
        ({"labels": [str(i) for i in range(10_000)]}, "labels: expected 2 to 1000 labels, got 10000"),
        ({"labels": "good"}, "labels: expected a list of strings"),
        ({"labels": None}, "labels: expected a list of strings"),
        ({"labels": ["good", "bad", "good"]}, "'good' (str) is there twice"),
        ({"labels": ["good", ""]}, "labels: expected text without space around it"),
        ({"labels": ["good", "  "]}, "labels: expected text without space around it"),
        ({"labels": ["good", " bad"]}, "labels: expected text without space around it"),
        ({"labels": ["good", 3]}, "labels: expected text without space around it"),
        ({"labels": ["New York", "Rome", "New York City"]}, "'New York' (str) begin those of 'New York City'"),
        ({"template": "no place"}, "template: expected text with {text} in it once"),
        ({"template": "{text} and {text}:"}, "template: expected text with {text} in it once"),
        ({"template": 7}, "template: expected text with {text} in it once"),
        ({"template": "Text: {text}"}, "template: expected it to go on after {text}"),
        ({"template": "Text: {text}\nLabel: "}, "template: expected it to go on after {text}"),
        ({"calibrate": "N/A"}, "calibrate: expected True, False or a list of texts"),
        ({"calibrate": []}, "calibrate: expected True, False or a list of texts"),
        ({"calibrate": [1]}, "calibrate: expected True, False or a list of texts"),
        ({"explain": "yes"}, "explain"),
    ],
)
def test_what_cannot_be_classified_is_refused(llm: LLM, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        llm.classify(**{"texts": "fine", "labels": ["good", "bad"], **changes})
    assert message in str(caught.value)
    assert llm.classify([], ["good", "bad"]) == []


def test_a_text_that_does_not_fit_is_refused_and_not_cut(path: Path) -> None:
    with LLM(str(path), threads=1, max_model_len=48) as llm:
        # The last token of a label is looked up after the one before it, and needs no place of its own.
        room = 48 - len(llm.tokenize(DEFAULT_TEMPLATE.replace("{text}", ""))) - (len(" good") - 1)
        assert llm.classify("x" * room, ["good", "bad"])[0].usage.prompt_tokens == 44
        with pytest.raises(ContextLengthExceeded, match="the text has 49 tokens, but the context holds 48"):
            llm.classify(["fine", "x" * (room + 1)], ["good", "bad"])


def test_text_with_braces_is_only_text(llm: LLM) -> None:
    assert llm.classify("{text} {0} {label}", LABELS)[0].prompt == "Text: {text} {0} {label}\nCategory:"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("one", ["one"]),
        ("One. Two! Three?", ["One. ", "Two! ", "Three?"]),
        ("It costs 3.50. Cheap...", ["It costs 3.50. ", "Cheap..."]),
        ('"Stop!" he said.\nShe did not', ['"Stop!" ', "he said.\n", "She did not"]),
        ("一。二！三", ["一。", "二！", "三"]),
        ("a\n\nb", ["a\n\n", "b"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected
    assert "".join(sentences(text)) == text
    assert [rest for _, rest in without_each(text)] == [
        "".join(expected[:i] + expected[i + 1 :]).strip() for i in range(len(expected))
    ]


def test_sentences_of_a_hostile_text_take_linear_time() -> None:
    began = time.process_time()
    for text in ("!" * 300_000 + "x", "." * 300_000 + '"' * 300_000 + "x", " " * 300_000 + "x", "。" * 300_000):
        assert "".join(sentences(text)) == text
    assert time.process_time() - began < 2


def test_log_odds_of_near_certainty_are_exact() -> None:
    assert log_odds({"a": 0.0, "b": -100.0, "c": -100.0}, "a") == pytest.approx(100 - np.log(2))

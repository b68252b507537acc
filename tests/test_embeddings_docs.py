"""docs/embeddings-and-classification.md is true: its examples run, and its figures are those of its result file."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
PAGE = (ROOT / "docs" / "embeddings-and-classification.md").read_text("utf-8")


def test_the_examples_run_in_order(smollm2_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        code = block.replace('LLM("smollm2")', f"LLM({str(smollm2_path)!r}, max_model_len=512)")
        exec(compile(code, "docs/embeddings-and-classification.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "(576,) float32" in printed
    bread, market = (float(score) for score in re.findall(r"^(\S+)  (?:Knead|The stock)", printed, re.MULTILINE))
    assert bread > market
    assert re.search(r"^[+-]\d\.\d\d  But the staff were kind\.$", printed, re.MULTILINE)


def test_the_figures_are_those_of_the_result_file() -> None:
    import classification

    [source] = set(re.findall(r"benchmarks/results/(\S+?\.json)", PAGE))
    result = json.loads((classification.RESULTS / source).read_text("utf-8"))
    assert classification.with_tables(PAGE, result, source) == PAGE
    for name, own in result["test"].items():
        assert own["num_sentences"] == len(classification.load(name, "test"))


def test_the_sets_are_large_enough_balanced_and_disjoint() -> None:
    import classification

    texts: list[str] = []
    for name, labels in classification.SETS.items():
        for split, least in (("dev", 40), ("test", 100)):
            sentences = classification.load(name, split)
            counts = Counter(label for label, _ in sentences)
            assert len(sentences) >= least
            assert set(counts) == set(labels)
            assert len(set(counts.values())) == 1, counts
            texts += [text for _, text in sentences]
    assert len(set(texts)) == len(texts)

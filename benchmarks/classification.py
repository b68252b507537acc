"""Accuracy of `LLM.classify` on the two small sets in benchmarks/data, beside chance and without calibration.

    python benchmarks/classification.py [MODEL]      prints, writes a result file, puts the tables into the docs page

Templates are compared on the development split alone; the test split is read with the default one only.
"""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import machine

from pellucid import LLM
from pellucid.engine.classify import DEFAULT_TEMPLATE
from pellucid.tools.bench import source_commit

ROOT = Path(__file__).resolve().parents[1]
DOC = ROOT / "docs" / "embeddings-and-classification.md"
RESULTS = ROOT / "benchmarks" / "results"
SETS = {
    "sentiment": ["positive", "negative"],
    "topic": ["sports", "cooking", "technology", "finance", "travel", "health"],
}
TEMPLATES = [
    DEFAULT_TEMPLATE,
    "Text: {text}\nLabel:",
    "{text}\nTopic or mood, in one word:",
    "{text}\n\nThe text above is best described as",
    "{text}\nThis text is",
]


def load(name: str, split: str) -> list[tuple[str, str]]:
    """(label, text) of each sentence."""
    with (ROOT / "benchmarks" / "data" / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row["label"], row["text"]) for row in rows if row["split"] == split]


def num_correct(llm: LLM, name: str, split: str, *, template: str, calibrate: bool) -> int:
    sentences = load(name, split)
    found = llm.classify([text for _, text in sentences], SETS[name], template=template, calibrate=calibrate)
    return sum(output.label == label for (label, _), output in zip(sentences, found, strict=True))


def measure(model: str) -> dict[str, Any]:
    with LLM(model, max_model_len=512) as llm:
        receipt = llm.classify("", ["a", "b"])[0].receipt
        result: dict[str, Any] = {
            "model": {"name": Path(receipt.model).name, "quantization": receipt.quantization, "isa": receipt.isa},
            "commit": source_commit(),
            "date": machine.today(),
            "test": {},
            "dev": {},
        }
        for name in SETS:
            both = {"calibrated": True, "uncalibrated": False}
            result["test"][name] = {"num_sentences": len(load(name, "test"))} | {
                key: num_correct(llm, name, "test", template=DEFAULT_TEMPLATE, calibrate=value)
                for key, value in both.items()
            }
            result["dev"][name] = {"num_sentences": len(load(name, "dev"))} | {
                template: {
                    key: num_correct(llm, name, "dev", template=template, calibrate=value)
                    for key, value in both.items()
                }
                for template in TEMPLATES
            }
    return result


def interval(correct: int, total: int) -> tuple[float, float]:
    """95 % of the accuracy of `correct` out of `total` (Wilson 1927)."""
    z, p = 1.96, correct / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return middle - half, middle + half


def tables(result: dict[str, Any], source: str) -> str:
    model = result["model"]
    lines = [
        f"{model['name']} ({model['quantization']}, {model['isa']}), commit {result['commit']}, {result['date']}: "
        f"accuracy on the test split with the default template, and the 95 % interval of so few sentences.",
        "",
        "| set | labels | sentences | chance | not calibrated | calibrated |",
        "|---|---|---|---|---|---|",
    ]
    for name, own in result["test"].items():
        total, labels = own["num_sentences"], len(SETS[name])
        cells = [_accuracy(own[key], total) for key in ("uncalibrated", "calibrated")]
        lines.append(f"| {name} | {labels} | {total} | {1 / labels:.1%} | {' | '.join(cells)} |")
    lines += ["", "The development split, on which the template was chosen (not calibrated / calibrated):", ""]
    names = list(result["dev"])
    sizes = [f"{name}, {result['dev'][name]['num_sentences']} sentences" for name in names]
    lines += [f"| template | {' | '.join(sizes)} |", f"|---|{'---|' * len(names)}"]
    for template in TEMPLATES:
        cells = []
        for name in names:
            own, total = result["dev"][name][template], result["dev"][name]["num_sentences"]
            cells.append(f"{own['uncalibrated'] / total:.1%} / {own['calibrated'] / total:.1%}")
        lines.append(f"| `{json.dumps(template)}` | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"From `benchmarks/results/{source}`; `make bench-classification` makes it anew."])


def with_tables(page: str, result: dict[str, Any], source: str) -> str:
    """`page` with the tables between its two marks."""
    start, end = "<!-- figures -->\n", "\n<!-- end of figures -->"
    return re.sub(f"{start}.*?{end}", lambda _: f"{start}{tables(result, source)}{end}", page, flags=re.DOTALL)


def _accuracy(correct: int, total: int) -> str:
    low, high = interval(correct, total)
    return f"{correct / total:.1%} ({low:.0%} to {high:.0%})"


def main() -> None:
    result = measure(sys.argv[1] if len(sys.argv) > 1 else "smollm2")
    source = f"{result['date']}-{result['commit'].rstrip('+')}-classification.json"
    (RESULTS / source).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    DOC.write_text(with_tables(DOC.read_text(encoding="utf-8"), result, source), encoding="utf-8")
    print(tables(result, source))


if __name__ == "__main__":
    main()

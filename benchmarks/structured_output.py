"""The corpus of schemas with a model at temperature 1: what is refused and what is valid; what masks and grammars cost.

    python benchmarks/structured_output.py [MODEL] [OTHER_MODEL …]

MODEL answers; masks are timed with its vocabulary and with those of the others, over its answers. Prints, writes a
result file, and puts the tables into docs/structured-output.md. Exits with 1 if an answer is no instance.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import machine  # noqa: E402
import numpy as np  # noqa: E402
from schema_corpus import schemas  # noqa: E402
from schema_validation import problem  # noqa: E402
from support.fake_model import ByteTokenizer  # noqa: E402
from support.structured import grammar, walk  # noqa: E402

from pellucid import LLM, SamplingParams, StructuredOutputs  # noqa: E402
from pellucid.errors import InvalidParameter  # noqa: E402
from pellucid.formats.checkpoint import open_checkpoint  # noqa: E402
from pellucid.formats.source import resolve  # noqa: E402
from pellucid.structured.grammar import lark_of  # noqa: E402
from pellucid.structured.matcher import Grammar  # noqa: E402
from pellucid.structured.vocabulary import build_tokenizer, token_finder  # noqa: E402
from pellucid.text.tokenizer import Tokenizer  # noqa: E402
from pellucid.tools.bench import source_commit  # noqa: E402

DOC = ROOT / "docs" / "structured-output.md"
RESULTS = ROOT / "benchmarks" / "results"
NUM_ANSWERS = 1
MAX_TOKENS = 256


def answers(model: str, corpus: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Counts, and the texts of the answers by name of their schema."""
    refused: dict[str, str] = {}
    asked: list[tuple[str, str, SamplingParams]] = []
    table = build_tokenizer(ByteTokenizer(), 260)  # type: ignore[arg-type]
    for name, schema in corpus.items():
        text = json.dumps(schema, ensure_ascii=False)
        try:
            grammar(table, json=text)
        except InvalidParameter as error:
            refused[name] = str(error)
            continue
        form = StructuredOutputs(json=text)
        params = SamplingParams(
            structured_outputs=form, temperature=1.0, n=NUM_ANSWERS, seed=len(asked), max_tokens=MAX_TOKENS
        )
        asked.append((name, f"A JSON value that fits {text[:400]} is, for example:\n", params))
    counts = {"answers": 0, "ended": 0, "cut": 0, "invalid": 0, "tokens": 0}
    texts: dict[str, list[str]] = {}
    with LLM(model, max_model_len=1024) as llm:
        results = llm.generate([prompt for _, prompt, _ in asked], [params for _, _, params in asked])
        receipt = results[0].receipt
    for (name, _, _), result in zip(asked, results, strict=True):
        for answer in result.outputs:
            counts["answers"] += 1
            counts["tokens"] += len(answer.token_ids)
            texts.setdefault(name, []).append(answer.text)
            ended = answer.finish_reason == "stop"
            counts["ended" if ended else "cut"] += 1
            whole = answer.text if ended else completed(table, corpus[name], answer.text)
            if whole is None or (reason := problem(corpus[name], whole)) is not None:
                counts["invalid"] += 1
                print(f"{name}: {answer.finish_reason}: {answer.text!r}: {reason if whole else 'no beginning of one'}")
    about = {"name": Path(receipt.model).name, "quantization": receipt.quantization, "isa": receipt.isa}
    return {"model": about, "schemas": len(corpus), "refused": refused, **counts}, texts


def completed(table: Any, schema: Any, beginning: str) -> str | None:
    """An answer that begins with what was cut by max_tokens; None if nothing goes on from there."""
    matcher = grammar(table, json=json.dumps(schema)).matcher()
    data = beginning.removesuffix("\ufffd").encode()
    for byte in data:
        matcher.mask()
        matcher.accept(byte)
    rest, complete = walk(matcher, ByteTokenizer(), random.Random(0), max_tokens=5_000)
    return data.decode() + rest if complete else None


def costs(model: str, corpus: dict[str, Any], texts: dict[str, list[str]]) -> dict[str, Any]:
    """Microseconds of CPU time for a mask, milliseconds for a grammar."""
    checkpoint = open_checkpoint(Path(resolve(model)))
    tokenizer = Tokenizer.from_checkpoint(checkpoint)
    start = time.thread_time()
    table = build_tokenizer(tokenizer, tokenizer.vocab_size)
    table_seconds = time.thread_time() - start
    find_token = token_finder(tokenizer, tokenizer.vocab_size)
    masks, compiles = [], []
    for name, own in texts.items():
        spec = StructuredOutputs(json=json.dumps(corpus[name], ensure_ascii=False))
        start = time.thread_time_ns()
        compiled = Grammar(table, lark_of(spec, find_token), param="json")
        compiles.append(time.thread_time_ns() - start)
        for text in own:
            matcher = compiled.matcher()
            for token in tokenizer.encode(text.removesuffix("\ufffd"), add_special=False):
                start = time.thread_time_ns()
                matcher.mask()
                masks.append(time.thread_time_ns() - start)
                matcher.accept(token)
                if matcher.is_finished:
                    break
    return {
        "name": checkpoint.path.name if hasattr(checkpoint, "path") else Path(model).name,
        "vocabulary": tokenizer.vocab_size,
        "table_seconds": round(table_seconds, 2),
        "masks": len(masks),
        "mask_us": _percentiles(masks, 1e3),
        "compile_ms": _percentiles(compiles, 1e6),
    }


def _percentiles(nanoseconds: list[int], unit: float) -> dict[str, float]:
    found = np.percentile(nanoseconds, [50, 99, 100]) / unit
    return {name: round(float(value), 2) for name, value in zip(("p50", "p99", "max"), found, strict=True)}


def tables(result: dict[str, Any], source: str) -> str:
    own, model = result["answers"], result["answers"]["model"]
    enforced = own["schemas"] - len(own["refused"])
    lines = [
        f"{model['name']} ({model['quantization']}, {model['isa']}), commit {result['commit']}, {result['date']}: "
        f"{own['answers']} answers at temperature 1, at most {result['max_tokens']} tokens each, to a corpus of "
        f"{own['schemas']} schemas.",
        "",
        "| schemas enforced | refused by name | answers ended, valid | cut by `max_tokens`, a valid start | invalid |",
        "|---|---|---|---|---|",
        f"| {enforced} | {len(own['refused'])} | {own['ended']} | {own['cut']} | {own['invalid']} |",
        "",
        f"What it costs beside the model, in CPU time on {result['machine']['cpu']}:",
        "",
        "| vocabulary | tokens | mask p50 | mask p99 | slowest | compile p50 | compile p99 | table, once a model |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cost in result["costs"]:
        mask, compiled = cost["mask_us"], cost["compile_ms"]
        lines.append(
            f"| {cost['name']} | {cost['vocabulary']:,} | {mask['p50']:.0f} µs | {mask['p99']:.0f} µs | "
            f"{mask['max']:,.0f} µs | {compiled['p50']:.1f} ms | {compiled['p99']:.1f} ms | {cost['table_seconds']} s |"
        )
    return "\n".join([*lines, "", f"From `benchmarks/results/{source}`; `make structured` makes it anew."])


def with_tables(page: str, result: dict[str, Any], source: str) -> str:
    """`page` with the tables between its two marks."""
    start, end = "<!-- figures -->\n", "<!-- end of figures -->"
    return re.sub(f"{start}.*?{end}", lambda _: f"{start}{tables(result, source)}\n{end}", page, flags=re.DOTALL)


def main() -> None:
    models = sys.argv[1:] or ["smollm2"]
    corpus = schemas()
    commit = source_commit()
    counted, texts = answers(models[0], corpus)
    result = {
        "commit": commit,
        "date": machine.today(),
        "machine": machine.describe(),
        "max_tokens": MAX_TOKENS,
        "answers": counted,
        "costs": [costs(model, corpus, texts) for model in models],
    }
    source = f"{result['date']}-{str(result['commit']).rstrip('+')}-structured.json"
    (RESULTS / source).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    DOC.write_text(with_tables(DOC.read_text(encoding="utf-8"), result, source), encoding="utf-8")
    print(tables(result, source))
    if counted["invalid"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""What choosing a token costs: CPU microseconds a row, by sampler, size of vocabulary and shape of the distribution.

    python benchmarks/sampling.py

A row is one answer's step, as `sample_rows` does it. "sure" is shaped like most of a text (some 20 tokens hold nearly
all of the probability), "unsure" like a model at a high temperature (thousands do).
"""

from __future__ import annotations

import sys
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pellucid.engine.sampler import Row, RowSampler, sample_rows
from pellucid.sampling import SamplingParams

VOCABULARIES = (49_152, 262_144)  # SmolLM2's and Gemma 3's
ROWS, ROUNDS = 16, 20
CASES: dict[str, tuple[dict[str, Any], int | None]] = {
    "temperature 0": ({"temperature": 0}, None),
    "temperature 0, 5 logprobs": ({"temperature": 0}, 5),
    "no cut": ({}, None),
    "no cut, 5 logprobs": ({}, 5),
    "temperature 0.8": ({"temperature": 0.8}, None),
    "the command line's defaults": ({"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}, None),
    "top_k 40": ({"top_k": 40}, None),
    "top_p 0.95": ({"top_p": 0.95}, None),
    "min_p 0.05": ({"min_p": 0.05}, None),
    "typical_p 0.9": ({"typical_p": 0.9}, None),
    "top_n_sigma 1": ({"top_n_sigma": 1.0}, None),
    "xtc": ({"xtc_probability": 1.0}, None),
    "mirostat 2": ({"mirostat": 2}, None),
    "frequency_penalty 0.5": ({"frequency_penalty": 0.5}, None),
}


def logits(vocab_size: int, *, sure: bool) -> np.ndarray:
    """Rows [ROWS, V] of noise with 30 tokens above it."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((ROWS, vocab_size)) * (1.2 if sure else 2.5)
    for row in rows:
        row[rng.choice(vocab_size, 30, replace=False)] += np.linspace(6, 16, 30) if sure else np.linspace(0, 4, 30)
    return rows.astype(np.float32)


def microseconds(rows: np.ndarray, fields: dict[str, Any], num_logprobs: int | None) -> float:
    """CPU time a row, the least of several rounds."""
    asked = []
    for i, row in enumerate(rows):
        sampler = RowSampler(
            SamplingParams(**fields), seed=i, index=0, end_token_ids=frozenset(), prompt_token_ids=range(200)
        )
        asked.append(Row(sampler, row, 0, 200, num_logprobs))
    times = []
    for _ in range(ROUNDS):
        started = process_time()
        sample_rows(asked)
        times.append(process_time() - started)
    return min(times) / len(asked) * 1e6


def main() -> None:
    columns = [(size, sure) for size in VOCABULARIES for sure in (True, False)]
    rows = {column: logits(column[0], sure=column[1]) for column in columns}
    titles = [f"{size // 1024}k, {'sure' if sure else 'unsure'}" for size, sure in columns]
    print(f"| CPU µs a row | {' | '.join(titles)} |\n|---|{'---:|' * len(titles)}")
    for name, (fields, num_logprobs) in CASES.items():
        cells = [f"{microseconds(rows[column], fields, num_logprobs):.0f}" for column in columns]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

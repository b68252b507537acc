"""Writes the tables of docs/operations.md that say how much memory weights, keys and values take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "operations.md"
BEGIN, END = "<!-- sizing, by scripts/make_sizing_docs.py -->\n", "<!-- end of sizing -->\n"
sys.path.insert(0, str(ROOT))

from pellucid.formats.quant import QuantType  # noqa: E402

STREAM = 4096  # tokens of prompt and answer
VALUE_NBYTES = {"float32": 4.0, "float16": 2.0, "q8_0": 1.125}
WEIGHTS = ("F16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_1", "Q4_0", "Q3_K")


class Shape(NamedTuple):
    """`windowed` of the `layers` keep only the last `window` tokens."""

    name: str
    layers: int
    kv_heads: int
    head_size: int
    windowed: int = 0
    window: int = 0

    def token_nbytes(self, dtype: str) -> float:
        """Of keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_size * VALUE_NBYTES[dtype]

    def stream_nbytes(self, dtype: str, num_tokens: int) -> float:
        kept = (self.layers - self.windowed) * num_tokens + self.windowed * min(num_tokens, self.window)
        return self.token_nbytes(dtype) * kept / self.layers


SHAPES = (
    Shape("SmolLM2 135M", 30, 3, 64),
    Shape("Gemma 3 270M", 18, 1, 256, 15, 512),
    Shape("Qwen 3 0.6B", 28, 8, 128),
    Shape("Llama 3.2 1B", 16, 8, 64),
    Shape("SmolLM2 1.7B", 24, 32, 64),
    Shape("Llama 3.2 3B", 28, 8, 128),
    Shape("Gemma 3 4B", 34, 4, 256, 29, 1024),
    Shape("Qwen 3 4B", 36, 8, 128),
    Shape("Mistral 7B v0.3", 32, 8, 128),
    Shape("Llama 3.1 8B", 32, 8, 128),
)


def tables() -> str:
    parts = ["| weights | GB for each billion |\n|---|---|\n"]
    for name in WEIGHTS:
        found = QuantType[name]
        parts.append(f"| {name} | {found.block_nbytes / found.block_size:.2f} |\n")
    parts.append(
        f"\n| keys and values | kB a token, float16 | q8_0 | float32 | MB for {STREAM:,} tokens, float16 "
        "| such streams in 4 GiB |\n|---|---|---|---|---|---|\n"
    )
    for shape in SHAPES:
        each = shape.stream_nbytes("float16", STREAM)
        sizes = " | ".join(f"{shape.token_nbytes(dtype) / 1000:.1f}" for dtype in ("float16", "q8_0", "float32"))
        parts.append(f"| {shape.name} | {sizes} | {each / 1e6:.0f} | {int((4 << 30) // each):,} |\n")
    return "".join(parts)


def render() -> str:
    """The whole page."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")

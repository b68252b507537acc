"""Writes docs/models.md from the table of families."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "models.md"
sys.path.insert(0, str(ROOT))

from pellucid.models.family import Family  # noqa: E402
from pellucid.models.registry import FAMILIES  # noqa: E402
from pellucid.models.rope import GGUF_SCALINGS, HF_SCALINGS  # noqa: E402

HEAD = """\
# Model families

<!-- Made by scripts/make_model_docs.py from pellucid/models; edit that and run `make docs`. -->

A checkpoint is a GGUF file, whose `general.architecture` decides, or a folder with config.json and safetensors, whose
`architectures` (else `model_type`) decides. The table is closed: no code from a model folder is ever run.

| family | `general.architecture` | `architectures` | `model_type` | file |
|---|---|---|---|---|
"""
TAIL = """
Any model with the shape of one of these runs under its name: SmolLM2, TinyLlama and Vicuna are `llama`, for example.

Rope scalings in GGUF: {gguf} (Llama 3.1's as the tensor `rope_freqs`, longrope's as `rope_factors_long` and `_short`).
In config.json: {hf}. Of the two tables of longrope, one is chosen when the model is loaded: the
long one if `max_model_len` is above the length the model was first trained with.

**Nothing is ignored in silence.** A setting that would change the answer and is not built (another rope scaling or
activation, a mixture of experts, a quantised safetensors file, …), a tensor that no layer uses and a tensor that is
missing are errors that name it. [add-a-model.md](add-a-model.md) says how to add a family.
"""


def render() -> str:
    scalings = {"gguf": ", ".join(GGUF_SCALINGS), "hf": ", ".join(HF_SCALINGS)}
    return HEAD + "".join(_row(family) for family in FAMILIES) + TAIL.format(**scalings)


def _row(family: type[Family]) -> str:
    file = Path(inspect.getfile(family)).name
    title = inspect.getdoc(inspect.getmodule(family)).split(". ")[0].split(".\n")[0]
    gguf = family.gguf_architecture or next(f for f in family.__mro__[1:] if f.gguf_architecture).gguf_architecture
    return (
        f"| {title} | `{gguf}` | `{family.hf_architecture}` | `{family.hf_model_type}` "
        f"| [{file}](../pellucid/models/{file}) |\n"
    )


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")

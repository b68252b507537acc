"""The models a benchmark can name: three real ones, and made-up ones for speed at size."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.models import cache_dir, fetch_gemma3, fetch_smollm2  # noqa: E402

REAL = {
    "smollm2": "SmolLM2 135M Q4_1",
    "gemma3": "Gemma 3 270M Q4_K_M",
    "story": "TinyStories 656K F32",
}
MADE_UP = {
    f"perf-{shape}-{kind.lower()}": (f"{shape.upper()} random {kind}", shape, kind)
    for shape, kind in (("1b", "Q4_K_M"), ("1b", "Q4_0"), ("1b", "Q8_0"), ("8b", "Q4_K_M"))
}
NAMES = [*REAL, *MADE_UP]


@dataclass(frozen=True)
class BenchModel:
    """`peer_path` is what llama.cpp runs: the same file, or, for safetensors, the same weights as GGUF."""

    name: str
    title: str
    path: Path
    peer_path: Path


def find(name: str, story: Path, *, with_peer: bool) -> BenchModel:
    """The model called `name`, fetched or made on first use (kept in the cache), or a path of a GGUF file."""
    if name == "smollm2":
        path = fetch_smollm2()
    elif name == "gemma3":
        path = fetch_gemma3()
    elif name == "story":
        if not story.is_dir():
            raise SystemExit(f"story: {story} is not a folder; pass --story FOLDER, or leave it out of --models")
        peer = cache_dir() / "story-f32.gguf"
        if with_peer and not peer.is_file():
            _make("make_story_gguf.py", str(story), str(peer))
        return BenchModel(name, REAL[name], story, peer)
    elif name in MADE_UP:
        title, shape, kind = MADE_UP[name]
        path = cache_dir() / f"{name}.gguf"
        if not path.is_file():
            _make("make_perf_model.py", str(path), "--shape", shape, "--type", kind)
        return BenchModel(name, title, path, path)
    elif Path(name).suffix == ".gguf" and Path(name).is_file():
        path = Path(name)
        return BenchModel(path.stem, path.stem, path, path)
    else:
        raise SystemExit(f"{name} is neither a GGUF file nor one of {', '.join(NAMES)}")
    return BenchModel(name, REAL[name], path, path)


def _make(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, Path(__file__).with_name(script), *arguments], check=True)

"""Make tests/goldens/real/*.npz: what transformers says in float32 about fixed texts, for three real models.

    make goldens        or        python scripts/make_real_goldens.py --story FOLDER

SmolLM2 and Gemma 3 are dequantised from their GGUF files (tests/support/float32_models.py); Story is loaded as it is.
For each position the GGUF goldens hold the 256 likeliest tokens with their log-probabilities and the log of the rest of
the mass: enough for a KL divergence that misses little (tests/test_real_models.py says how little).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.float32_models import load_float32  # noqa: E402
from support.models import fetch_gemma3, fetch_smollm2  # noqa: E402

GOLDENS = ROOT / "tests" / "goldens" / "real"
NUM_TOKENS, TOP = 384, 256
STORY_TOKENS, STORY_ROWS, STORY_NEW_TOKENS = 300, 48, 200
STORY_PROMPT = "One day, Tim found a big box in the garden"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--story", type=Path, default=ROOT.parent / "shared" / "models" / "story")
    parser.add_argument("--only", choices=["smollm2", "gemma3", "story"])
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    if args.only in (None, "smollm2"):
        make_gguf_golden("smollm2", fetch_smollm2())
    if args.only in (None, "gemma3"):
        make_gguf_golden("gemma3", fetch_gemma3())
    if args.only in (None, "story"):
        make_story_golden(args.story)


def make_gguf_golden(name: str, path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ids = mixed_text_ids(tokenizer)
    logits = load_float32(path)(torch.tensor([ids])).logits[0]
    logprobs = torch.log_softmax(logits.double(), dim=-1)
    top = torch.topk(logprobs, TOP, dim=-1)
    rest = torch.log1p(-top.values.exp().sum(-1))
    # Ids in rising order compress far better than in order of likelihood.
    order = top.indices.argsort(-1)
    save(
        name,
        token_ids=np.array(ids, np.int32),
        top_ids=top.indices.gather(-1, order).numpy().astype(np.int32),
        top_logprobs=top.values.gather(-1, order).numpy().astype(np.float32),
        rest_logprob=rest.numpy().astype(np.float32),
        argmax=logprobs.argmax(-1).numpy().astype(np.int32),
    )
    likelihood = logprobs[:-1].gather(-1, torch.tensor(ids[1:])[:, None])
    print(f"{name}: perplexity {likelihood.mean().neg().exp():.2f}, mean rest mass {rest.exp().mean():.4f}")


def mixed_text_ids(tokenizer) -> list[int]:
    """NUM_TOKENS ids, the first half prose and the second half code, begun as the model wants its texts begun."""
    prose = tokenizer((GOLDENS / "prose.txt").read_text(encoding="utf-8")).input_ids
    code = tokenizer((GOLDENS / "code.txt").read_text(encoding="utf-8"), add_special_tokens=False).input_ids
    return prose[: NUM_TOKENS // 2] + code[: NUM_TOKENS // 2]


def make_story_golden(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = tokenizer((GOLDENS / "story.txt").read_text(encoding="utf-8")).input_ids[:STORY_TOKENS]
    rows = np.linspace(0, STORY_TOKENS - 1, STORY_ROWS).astype(np.int32)
    prompt = tokenizer(STORY_PROMPT).input_ids
    greedy, margins = prompt.copy(), []
    for _ in range(STORY_NEW_TOKENS):
        best = model(torch.tensor([greedy])).logits[0, -1].topk(2)
        greedy.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
    save(
        "story",
        token_ids=np.array(ids, np.int32),
        rows=rows,
        logits=model(torch.tensor([ids])).logits[0].numpy()[rows],
        greedy_prompt=np.array(prompt, np.int32),
        greedy_ids=np.array(greedy[len(prompt) :], np.int32),
    )
    print(f"story: {len(ids)} tokens; smallest greedy margin {min(margins):.4f} logits; {tokenizer.decode(greedy)!r}")


def save(name: str, **arrays: np.ndarray) -> None:
    path = GOLDENS / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

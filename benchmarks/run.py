"""Measure Pellucid on this machine: prefill, decode, many streams, long contexts, cold start, memory, quality.

Prints tables for each model and writes benchmarks/results/DATE-COMMIT.json, anew after each piece of work. Each figure
is the median over rounds (fresh processes of `pellucid bench`) of the median over repeats. Leave the machine alone
meanwhile. --parts and --models choose, and --into adds to an earlier result of the same commit: more rounds, or parts
and models that it lacks.

With --llama-bin FOLDER (llama-bench, llama-batched-bench, llama-completion) each round measures llama.cpp too, on the
same files right after Pellucid, and the table gives the ratio of every round: median, lowest and highest.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import bench_models
import goals
import report
import rounds
import sections


def main() -> None:
    args = arguments()
    result = rounds.measure(args, lambda result: report.save(result, args.into))
    print("\n".join(report.header(result)))
    for model in result["models"]:
        print(f"\n{model['title']}\n\n{report.model_table(model, result['limits'])}")
    print(f"\n{sections.text(result)}\n\n{goals.text(result)}\n\nwritten to {report.save(result, args.into)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    story = bench_models.ROOT.parent / "shared" / "models" / "story"
    default = ["smollm2", "gemma3", *bench_models.MADE_UP]
    parser.add_argument(
        "--models", default=",".join(default), help=f"GGUF paths, or of {', '.join(bench_models.NAMES)}"
    )
    parser.add_argument("--story", type=Path, default=story, help="folder of the Story model (TinyStories-656K)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--isa", help="instruction set for Pellucid (default: the best of this machine)")
    text = "what Pellucid rounds inputs of quantised weights to; the first one also starts cold (default: int16,int8)"
    parser.add_argument("--activations", type=lambda text: text.split(","), default=["int16", "int8"], help=text)
    parser.add_argument("--rounds", type=int, default=2, help="fresh processes of each engine (default: 2)")
    parser.add_argument("--repeats", type=int, default=2, help="measurements in a process, less if slow (default: 2)")
    parts = "; ".join(f"{name}: {about}" for name, about in rounds.PARTS.items())
    parser.add_argument("--parts", type=_parts, default=list(rounds.PARTS), help=f"of {parts} (default: all)")
    text = "begin nothing but first rounds after this (default: 35)"
    parser.add_argument("--minutes", type=float, default=35, help=text)
    parser.add_argument("--into", type=Path, metavar="RESULT", help="add to this result of the same commit")
    parser.add_argument("--llama-bin", type=Path, help="folder of llama.cpp's programs, to measure it in the same run")
    parser.add_argument("--llama-version", help="what to call it (default: what it says of itself)")
    return parser.parse_args()


def _parts(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in rounds.PARTS]:
        raise argparse.ArgumentTypeError(f"there is no part {unknown[0]!r}, expected some of {', '.join(rounds.PARTS)}")
    return names


if __name__ == "__main__":
    main()

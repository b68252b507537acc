"""Measure Pellucid on this machine: prefill, decode, many streams, cold start, memory.

Prints a table for each model and writes benchmarks/results/DATE-COMMIT.json. Each figure is the median over rounds
(fresh processes of `pellucid bench`) of the median over repeats. Leave the machine alone meanwhile.

With --llama-bin FOLDER (llama-bench, llama-batched-bench, llama-completion) each round measures llama.cpp too, on the
same files right after Pellucid, and the table gives the ratio of every round: median, lowest and highest.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import bench_models
import report
import rounds


def main() -> None:
    result = rounds.measure(arguments())
    print("\n".join(report.header(result)))
    for model in result["models"]:
        print(f"\n{model['title']}\n{report.model_table(model, result['limits'])}")
    print(f"\nwritten to {report.save(result)}")


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
    text = "what Pellucid rounds inputs of quantised weights to (default: int16)"
    parser.add_argument("--activations", choices=("int16", "int8"), default="int16", help=text)
    parser.add_argument("--rounds", type=int, default=2, help="fresh processes of each engine (default: 2)")
    parser.add_argument("--repeats", type=int, default=2, help="measurements in a process, less if slow (default: 2)")
    parser.add_argument("--context", type=int, default=8192, help="a long context, measured once; 0: none")
    parser.add_argument("--minutes", type=float, default=16, help="begin no second round after this (default: 16)")
    text = "models above this size have the long context measured without the peer (default: 300)"
    parser.add_argument("--long-peer-mb", type=float, default=300, help=text)
    parser.add_argument("--llama-bin", type=Path, help="folder of llama.cpp's programs, to measure it in the same run")
    parser.add_argument("--llama-version", help="what to call it (default: what it says of itself)")
    return parser.parse_args()


if __name__ == "__main__":
    main()

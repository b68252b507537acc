"""Where the time of a step goes, by kind of work: what limits each speed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from pellucid.executors.cpu import CpuProgram
from pellucid.graph.ir import Node
from pellucid.tools.bench_steps import Steps

PARTS = {
    "multiply": "multiplying by weights",
    "inputs": "norms, rounding their inputs",
    "logits": "logits",
    "attention": "attention",
    "rest": "the other operators",
    "outside": "outside of the program",
}
"""Linear operators first prepare their input rows, then multiply; the one that makes logits counts apart, whole."""

Profile = dict[str, float]
"""Seconds of a step (`step`), and the share of them that each of PARTS takes."""


def profile_of(program: CpuProgram, work: Callable[[], Steps]) -> Profile:
    """Run `work` on `program` with its operators timed: wall time, of the mean step. They stay timed afterwards."""
    program.start_profile()
    steps = work()
    total = sum(steps.seconds)
    seconds = dict.fromkeys(PARTS, 0.0)
    for node, phases in groupby(program.profile(), key=lambda phase: phase[0]):
        for number, (_, spent) in enumerate(phases):
            seconds[_part(node, number)] += spent
    seconds["outside"] = max(0.0, total - sum(seconds.values()))
    return {"step": total / len(steps.seconds), **{part: spent / total for part, spent in seconds.items()}}


def _part(node: Node, phase: int) -> str:
    if node.op == "linear":
        return "logits" if node.output.rows == "R" else "inputs" if phase == 0 else "multiply"
    return "attention" if node.op == "attention" else "rest"

"""`pellucid doctor`: what this machine can do, measured, and what that means."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pellucid.cli import terminal

if TYPE_CHECKING:
    from pellucid.tools.doctor import Bandwidth, Machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def main(args: argparse.Namespace) -> None:
    """Show this machine's cores, instruction sets, memory and bandwidth, and what will be fast.

    The bandwidth is measured, which takes a second or two; other work on the machine lowers it.
    """
    from rich.table import Table

    from pellucid import __version__
    from pellucid.tools.doctor import describe_machine, measure_bandwidth

    machine = describe_machine()
    bandwidth = measure_bandwidth(machine.num_usable_cores)
    console = terminal.console()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(machine, bandwidth):
        table.add_row(name, terminal.safe_line(value))
    console.print(f"pellucid {__version__} on this machine", style="bold")
    console.print(table)
    console.print("\nwhat will be fast, and why", style="bold")
    advice = Table(box=None, show_header=False, pad_edge=False)
    for line in _advice(machine, bandwidth):
        advice.add_row("·", line)
    console.print(advice)


def _facts(machine: Machine, bandwidth: Bandwidth) -> Iterator[tuple[str, str]]:
    from pellucid.executors.limits import NUM_PASSES

    yield "processor", machine.processor
    yield "cores", f"{machine.num_usable_cores} usable of {machine.num_cores}"
    if machine.features:
        yield "instructions", " ".join(machine.features)
    yield "kernels", f"{machine.isas[-1]} (--isa offers {', '.join(machine.isas)})"
    if machine.cache_nbytes:
        yield "largest cache", f"{machine.cache_nbytes / 2**20:,.0f} MiB"
    yield "memory", f"{machine.free_memory / 2**30:,.1f} GiB free of {machine.total_memory / 2**30:,.1f} GiB"
    speed = f"{bandwidth.one_thread / 1e9:.1f} GB/s with 1 thread, {bandwidth.all_threads / 1e9:.1f} GB/s with "
    how = f"reading {bandwidth.nbytes / 2**20:,.0f} MiB, best of {NUM_PASSES} passes"
    yield "bandwidth", f"{speed}{bandwidth.num_threads} ({how})"


def _advice(machine: Machine, bandwidth: Bandwidth) -> Iterator[str]:
    from pellucid.formats.builtin import BUILTINS
    from pellucid.tools.doctor import UNUSED_YET

    best = max(bandwidth.one_thread, bandwidth.all_threads)
    model = BUILTINS["smollm2"]
    yield (
        "Each new token of one conversation reads all weights once, so its speed is bound by bandwidth ÷ model size: "
        f"{model.name} ({model.nbytes / 1e6:,.0f} MB) at most {best / model.nbytes:,.0f} tokens/s from memory, "
        f"a model of 1 GB at most {best / 1e9:,.0f}, one of 5 GB at most {best / 5e9:,.1f}."
    )
    if machine.cache_nbytes and machine.cache_nbytes > model.nbytes:
        yield f"{model.name} fits the largest cache and can exceed that bound while nothing else evicts it."
    yield "Prompts and batches read the weights once for many tokens; arithmetic binds them: cores and kernels count."
    if machine.isas[-1] == "portable":
        yield "Only the portable kernels run here: correct on any processor, several times slower than AVX2."
    if unused := [name for name in machine.features if name in UNUSED_YET]:
        yield f"This processor has {', '.join(unused)}, which no kernel uses yet."
    if (closed := machine.num_cores - machine.num_usable_cores) > 0:
        yield f"{closed} cores are closed to this process by its affinity or control group."
    room = 0.8 * machine.free_memory / 1e9
    yield f"A model has to fit the free memory together with its KV cache: up to about {room:,.0f} GB of weights here."

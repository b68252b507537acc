"""Executors by name. Importing this package loads none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pellucid.errors import ExecutorError

if TYPE_CHECKING:
    from pellucid.executors.base import Executor

EXECUTORS = ("cpu", "reference")


def get_executor(
    name: str,
    *,
    threads: int | None = None,
    isa: str | None = None,
    kv_cache_dtype: str = "auto",
    activations: str = "auto",
) -> Executor:
    """The executor called `name`. Raises ExecutorError for an unknown name, and for a setting it does not have."""
    if name == "cpu":
        from pellucid.executors.cpu import CpuExecutor

        return CpuExecutor(threads=threads, isa=isa, kv_cache_dtype=kv_cache_dtype, activations=activations)
    if name == "reference":
        from pellucid.executors.reference import ReferenceExecutor

        asked = {"threads": threads is not None, "isa": isa is not None, "kv_cache_dtype": kv_cache_dtype != "auto"}
        if refused := [setting for setting, given in asked.items() if given]:
            raise ExecutorError(f"the reference executor has no setting {', '.join(refused)}; leave it out")
        return ReferenceExecutor(activations=activations)
    raise ExecutorError(f"there is no executor {name!r}, expected one of {', '.join(EXECUTORS)}")

"""A progress bar on stderr for work that takes a while."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress


class ProgressBar:
    """`with ProgressBar(total) as bar: bar.advance(tokens)`: prompts answered, tokens a second, time left.

    show: None shows it if stderr is a terminal.
    """

    def __init__(self, total: int | None, *, show: bool | None = None, done: int = 0) -> None:
        """`done` of `total` are behind us already. A `total` of None is not known."""
        self._total = total
        self._done = done
        self._tokens = 0
        self._show = (not sys.stderr.closed and sys.stderr.isatty()) if show is None else show
        self._bar: Progress | None = None
        self._started = monotonic()

    def advance(self, num_tokens: int = 0) -> None:
        """One more prompt is answered, with `num_tokens`."""
        self._done += 1
        self._tokens += num_tokens
        if self._bar is not None:
            rate = f"{self._tokens / max(monotonic() - self._started, 1e-9):,.1f} tokens/s"
            self._bar.update(self._bar.task_ids[0], completed=self._done, rate=rate)

    def __enter__(self) -> Self:
        self._started = monotonic()
        if self._show:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.add_task("", total=self._total, completed=self._done, rate="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

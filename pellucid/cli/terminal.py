"""What every command shares towards the terminal: safe text, colour, download progress, interruption."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Self, TextIO

from pellucid.config import colour_wanted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

# C0 as visible pictures (U+2400…), C1 as the replacement character; newline and tab stay, a carriage return goes.
_CONTROLS: dict[int, int | None] = {
    **{c: 0x2400 + c for c in range(0x20)},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    0x0A: 0x0A,
    0x09: 0x09,
    0x0D: None,
}


def safe(text: str) -> str:
    """`text` without control sequences: a model's answer, a file's metadata or an error must not drive the terminal."""
    return text.translate(_CONTROLS)


def safe_line(text: str) -> str:
    """As `safe`, and on one line: nobody's metadata can forge lines of ours."""
    return safe(text).replace("\n", "\u240a").replace("\t", " ")


def is_terminal(stream: TextIO) -> bool:
    return not stream.closed and stream.isatty()


def use_colour(stream: TextIO, asked: bool | None) -> bool:
    """Whether to colour `stream`: as asked with --color or --no-color, else on a terminal unless NO_COLOR is set."""
    return (is_terminal(stream) and colour_wanted()) if asked is None else asked


def dim(text: str, stream: TextIO, asked: bool | None = None) -> str:
    return f"\x1b[2m{text}\x1b[0m" if use_colour(stream, asked) else text


def note(text: str, asked: bool | None = None) -> None:
    """One dim line on stderr, where nothing of it can get into the answer."""
    print(dim(safe(text), sys.stderr, asked), file=sys.stderr, flush=True)


def fail(message: str, asked: bool | None = None) -> None:
    """One clear message on stderr."""
    word = "\x1b[1;31merror:\x1b[0m" if use_colour(sys.stderr, asked) else "error:"
    print(word, safe(message), file=sys.stderr, flush=True)


def console() -> Console:
    """Rich's console on stdout, taking text as it is; into a pipe it wraps nothing."""
    from rich.console import Console

    width = None if is_terminal(sys.stdout) else 1000
    return Console(highlight=False, markup=False, emoji=False, width=width)


class DownloadProgress:
    """A progress bar on stderr that appears with a download's first bytes: `with DownloadProgress() as progress`."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if self._bar is None:
            self._bar = _start_bar()
            self._task = self._bar.add_task(safe_line(what), total=total)
        self._bar.update(self._task, completed=done, total=total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _start_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(TextColumn("Fetching {task.description}", markup=False), *columns, console=Console(stderr=True))
    bar.start()
    return bar


@contextmanager
def keys_unseen() -> Iterator[None]:
    """Keys pressed meanwhile are not echoed into what is written; the next prompt gets them (but Ctrl-C drops them)."""
    try:
        import termios
    except ImportError:  # not a POSIX system
        yield
        return
    if not is_terminal(sys.stdin):
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    unseen = termios.tcgetattr(sys.stdin)
    unseen[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSANOW, unseen)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


class Interruption:
    """Ctrl-C as a flag while an answer streams: `with Interruption() as stop: … if stop: break`.

    The first Ctrl-C raises the flag, so that the engine is never torn out of the middle of a step; a second one raises
    KeyboardInterrupt as usual. Only for the main thread.
    """

    def __init__(self) -> None:
        self._raised = False

    def __bool__(self) -> bool:
        return self._raised

    def _handle(self, signal_number: int, frame: FrameType | None) -> None:
        if self._raised:
            raise KeyboardInterrupt
        self._raised = True

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

"""What reaches the terminal: no control sequences of others, colour only where it is wanted."""

from __future__ import annotations

import io
import signal

import pytest

from pellucid.cli import terminal
from pellucid.cli.terminal import safe, safe_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text, größer, 日本語, 👩‍👩‍👧\n\ttabbed", "plain text, größer, 日本語, 👩‍👩‍👧\n\ttabbed"),
        ("\x1b[2J\x1b]0;title\x07", "␛[2J␛]0;title␇"),
        ("over\rwritten\r\n", "overwritten\n"),
        ("\x00\x08\x7f", "␀␈␡"),
        ("\x9b31m\x85", "\ufffd31m\ufffd"),
    ],
)
def test_control_characters_become_visible(text: str, expected: str) -> None:
    assert safe(text) == expected


def test_every_control_character_is_covered() -> None:
    controls = "".join(map(chr, [*range(0x20), 0x7F, *range(0x80, 0xA0)]))
    assert [c for c in safe(controls) if not c.isprintable()] == ["\t", "\n"]
    assert safe_line(controls).isprintable()


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "asked", "variables", "expected"),
    [
        (Screen(), None, {}, True),
        (io.StringIO(), None, {}, False),
        (Screen(), None, {"NO_COLOR": "1"}, False),
        (Screen(), None, {"TERM": "dumb"}, False),
        (Screen(), False, {}, False),
        (io.StringIO(), True, {"NO_COLOR": "1"}, True),
    ],
)
def test_when_colour_is_used(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, asked: bool | None, variables: dict[str, str], expected: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert terminal.use_colour(stream, asked) is expected


def test_the_first_interrupt_is_a_flag_and_the_second_an_exception() -> None:
    before = signal.getsignal(signal.SIGINT)
    with terminal.Interruption() as stop:
        assert not stop
        signal.raise_signal(signal.SIGINT)
        assert stop
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before

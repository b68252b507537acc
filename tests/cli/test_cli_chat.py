"""`pellucid chat`: the conversation itself, piped lines, and a person at a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import COMMAND, Pellucid
from support.tiny_model import CHATML, write_tiny_model

from pellucid import LLM, SamplingParams, StreamChunk
from pellucid.cli.conversation import Conversation
from pellucid.errors import ContextLengthExceeded, InvalidParameter, InvalidRequest

GREEDY = SamplingParams(temperature=0, max_tokens=6)


@pytest.fixture(scope="module")
def llm(tiny: Path) -> Iterator[LLM]:
    with LLM(str(tiny), max_num_seqs=1) as loaded:
        yield loaded


def say(conversation: Conversation, text: str) -> str:
    return "".join(piece.text for piece in conversation.ask(text))


def test_every_turn_sees_the_ones_before(llm: LLM) -> None:
    conversation = Conversation(llm, GREEDY, system="be brief")
    first = say(conversation, "one")
    second = say(conversation, "two")
    assert conversation.messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": second},
    ]
    assert conversation.last is not None
    prompt = conversation.last.receipt.prompt
    assert prompt is not None
    assert f"<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n{first}<|im_end|>\n" in prompt
    assert re.search(r"context \d+ of 256 tokens", conversation.stats())


def test_a_question_that_fails_leaves_the_conversation_as_it_was(llm: LLM) -> None:
    conversation = Conversation(llm, GREEDY)
    say(conversation, "one")
    before = list(conversation.messages)
    with pytest.raises(ContextLengthExceeded, match=r"/clear starts over"):
        say(conversation, "x" * 300)
    assert conversation.messages == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
@pytest.mark.parametrize("when", ["before", "within", "outside"])
def test_no_failure_leaves_a_question_without_an_answer(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], when: str
) -> None:
    conversation = Conversation(llm, GREEDY, system="be brief")
    say(conversation, "one")
    before = list(conversation.messages)
    stream_chat = llm.stream_chat

    def failing(*given: Any, **options: Any) -> Iterator[StreamChunk]:
        if when == "within":
            yield next(stream_chat(*given, **options))
        raise error

    def ask() -> None:
        for _ in conversation.ask("two"):
            raise error  # from whoever writes the answer out

    if when != "outside":
        monkeypatch.setattr(llm, "stream_chat", failing)
    with pytest.raises(error):
        ask()
    assert conversation.messages == before
    monkeypatch.undo()
    assert say(conversation, "three")


def test_a_stopped_answer_is_kept_as_far_as_it_came(llm: LLM) -> None:
    conversation = Conversation(llm, SamplingParams(temperature=0, max_tokens=100))
    pieces: list[str] = []
    for piece in conversation.ask("one", stopped=lambda: bool(pieces)):
        pieces.append(piece.text)
    assert len(pieces) == 1
    assert conversation.messages[-1] == {"role": "assistant", "content": pieces[0]}
    assert say(conversation, "two")


def test_regenerating_asks_again_with_another_seed(llm: LLM) -> None:
    conversation = Conversation(llm, SamplingParams(temperature=5, max_tokens=12, seed=1))
    first = say(conversation, "one")
    assert conversation.take_back() == "one"
    assert conversation.messages == []
    assert say(conversation, "one") != first
    conversation.clear()
    with pytest.raises(InvalidRequest, match="no answer yet"):
        conversation.take_back()


def test_the_system_message_can_change_and_survives_clear(llm: LLM) -> None:
    conversation = Conversation(llm, GREEDY)
    assert conversation.system is None
    say(conversation, "one")
    conversation.set_system("be rude")
    conversation.set_system("be kind")
    assert [m["role"] for m in conversation.messages] == ["system", "user", "assistant"]
    conversation.clear()
    assert conversation.messages == [{"role": "system", "content": "be kind"}]
    conversation.set_system(None)
    assert conversation.messages == []


def test_save_and_load(llm: LLM, tmp_path: Path) -> None:
    conversation = Conversation(llm, GREEDY, system="be brief")
    say(conversation, "größe 👩")
    conversation.save(tmp_path / "talk.json")
    with pytest.raises(InvalidParameter, match="exists already"):
        conversation.save(tmp_path / "talk.json")
    other = Conversation(llm, GREEDY)
    other.load(tmp_path / "talk.json")
    assert other.messages == conversation.messages
    assert say(other, "more") == say(conversation, "more")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"messages": 1}',
        '{"messages": ["user"]}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": [{"role": "user", "content": 1}]}',
        '{"messages": [{"role": "tool", "content": ""}]}',
    ],
)
def test_what_is_no_saved_conversation(llm: LLM, tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    conversation = Conversation(llm, GREEDY)
    with pytest.raises(InvalidParameter, match="load: "):
        conversation.load(tmp_path / "bad.json")
    assert conversation.messages == []


def test_piped_lines_are_answered_one_by_one(pellucid: Pellucid, tiny: Path, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    lines = f"one\n\n/system be brief\ntwo\n/stats\n/help\n/save {saved}\n/exit\nnever\n"
    done = pellucid("chat", tiny, "-n", "4", "--temp", "0", stdin=lines)
    assert done.returncode == 0, done.stderr
    assert [m["content"] for m in json.loads(saved.read_text())["messages"] if m["role"] == "user"] == ["one", "two"]
    assert "context" in done.stderr
    assert "/regen" in done.stderr
    assert "tokens" not in done.stdout


@pytest.mark.parametrize("asked", ["--color", "--no-color"])
def test_all_that_is_not_the_answer_is_coloured_as_asked(pellucid: Pellucid, tiny: Path, asked: str) -> None:
    lines = "/help\n/stats\n/system x\n/system\n/clear\n/regen\n"
    done = pellucid("chat", tiny, asked, stdin=lines)
    assert done.returncode == 2
    told = done.stderr.splitlines()
    assert len(told) == 13
    coloured = [line.startswith("\x1b[") for line in told]
    assert coloured == [asked == "--color"] * len(told)


def test_no_color_holds_on_a_terminal(tiny: Path, environment: dict[str, str]) -> None:
    person = Person(["chat", str(tiny), "--no-color"], environment)
    shown = person.wait_for(PROMPT)
    for line, said in (("/stats", "no complete answer yet"), ("/nonsense", "error: command: there is no /nonsense")):
        person.type(f"{line}\r")
        shown += person.wait_for(said) + person.wait_for(PROMPT)
    person.type("/exit\r")
    person.process.wait(30)
    person.close()
    assert "\x1b[2m" not in shown
    assert "\x1b[1;31m" not in shown


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("/nonsense\n", "there is no /nonsense"),
        ("/regen\n", "no answer yet"),
        ("/save\n", "name a file"),
        ("/save ~no/x\n", "names a user"),
    ],
)
def test_a_piped_command_that_fails_ends_with_2(pellucid: Pellucid, tiny: Path, lines: str, words: str) -> None:
    done = pellucid("chat", tiny, stdin=lines)
    assert done.returncode == 2
    assert words in done.stderr


def test_reasoning_is_dim_where_there_is_colour_and_text_where_there_is_none(
    pellucid: Pellucid, tmp_path: Path
) -> None:
    thinking = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}") + "{# </think> #}"
    path = write_tiny_model(tmp_path / "thinking.gguf", template=thinking)
    arguments = ("chat", path, "--temp", "0", "-n", "8")
    plain, coloured = (pellucid(*arguments, colour, stdin="hi\n") for colour in ("--no-color", "--color"))
    assert "\x1b" not in plain.stdout
    assert coloured.stdout.startswith("\x1b[2m")
    assert re.sub(r"\x1b\[[02]m", "", coloured.stdout).strip() == plain.stdout.strip()


def test_reasoning_is_no_part_of_the_conversation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM(str(write_tiny_model(tmp_path / "t.gguf"))) as llm:
        said = [StreamChunk(0, "", [], reasoning="Hm."), StreamChunk(0, "Yes.", [])]
        monkeypatch.setattr(llm, "stream_chat", lambda *given, **options: iter(said))
        conversation = Conversation(llm, GREEDY, split_reasoning=True)
        assert list(conversation.ask("one")) == said
        assert conversation.messages[-1] == {"role": "assistant", "content": "Yes."}


def test_a_base_model_cannot_chat(pellucid: Pellucid, tmp_path: Path) -> None:
    done = pellucid("chat", write_tiny_model(tmp_path / "base.gguf", template=None), stdin="hi\n")
    assert done.returncode == 2
    assert "pellucid run" in done.stderr


PROMPT = r"\x1b\[\?2004h"
ANSWER = r"\x1b\[\?2004l[^\x1b]{20}"
"""The line editor is ready; it has handed the terminal over, and an answer is on its way."""


def take_the_terminal() -> None:
    """So that the key Ctrl-C sends a signal, and one that is not ignored, as it is below a background job."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Person:
    """Types at a terminal of its own and reads the screen."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self._terminal, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=take_the_terminal,
        )
        os.close(theirs)
        self.screen = ""

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def wait_for(self, pattern: str, seconds: float = 30.0) -> str:
        """Read until `pattern` is on the screen, and forget the screen up to its end; returns what was forgotten."""
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, self.screen)):
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))
            try:
                data = os.read(self._terminal, 65536) if ready else b""
            except OSError:  # the other side has closed the terminal
                data = b""
            assert data, f"{pattern!r} did not appear; the screen ends with {self.screen[-1000:]!r}"
            self.screen += data.decode(errors="replace")
        seen, self.screen = self.screen[: match.end()], self.screen[match.end() :]
        return seen

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)


@pytest.fixture
def person(environment: dict[str, str], tmp_path: Path) -> Iterator[Person]:
    endless = write_tiny_model(tmp_path / "endless.gguf", context=200_000)
    someone = Person(["chat", str(endless), "--temp", "0", "--no-color"], environment)
    yield someone
    someone.close()


def test_ctrl_c_stops_the_answer_and_not_the_program(person: Person) -> None:
    person.wait_for("/help lists the commands")
    person.type("/help\r")
    person.wait_for("take the last answer back")
    person.type("hello\r")
    person.wait_for(ANSWER)
    person.type("\x03")
    person.wait_for(r"\[stopped\]")
    person.type("/stats\r")
    person.wait_for("tokens")
    person.wait_for(PROMPT)
    person.type("\x03")
    person.wait_for("Ctrl-D or /exit leaves")
    person.wait_for(PROMPT)
    person.type("\x04")
    assert person.process.wait(timeout=20) == 0


def test_the_answer_cannot_drive_the_terminal(person: Person) -> None:
    """The tiny model babbles bytes; its control characters must arrive as pictures."""
    person.type("/system x\r")
    person.wait_for("The system message is set")
    person.type("hello\r")
    person.wait_for(ANSWER)
    person.type("unseen")
    babble = person.wait_for(r"[^\s]{300}")
    person.type("\x03")
    person.wait_for(r"\[stopped\]")
    assert "unseen" not in babble
    assert not set(babble) & {chr(c) for c in range(0x20) if chr(c) not in "\r\n\t"}


def test_ctrl_c_while_running_is_130(environment: dict[str, str], tmp_path: Path) -> None:
    endless = write_tiny_model(tmp_path / "endless.gguf", context=200_000)
    someone = Person(["run", str(endless), "hello", "--temp", "0"], environment)
    someone.wait_for(r"[^\s]{20}")
    someone.type("\x03")
    assert someone.process.wait(timeout=20) == 130
    assert "Traceback" not in someone.screen
    someone.close()

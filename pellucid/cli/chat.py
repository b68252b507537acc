"""`pellucid chat`: talk with a model in the terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.cli import options, sampling_options, terminal
from pellucid.config import cache_dir
from pellucid.errors import InvalidParameter, InvalidRequest, PellucidError

if TYPE_CHECKING:
    from pellucid.cli.conversation import Conversation

HELP = {
    "/help": "show this list",
    "/clear": "forget the conversation, keep the system message",
    "/system TEXT": "set the system message; without TEXT, show it",
    "/regen": "take the last answer back and make another",
    "/save FILE": "write the conversation to a new JSON file",
    "/load FILE": "go on with a saved conversation",
    "/stats": "speed of the last answer, and how full the context is",
    "/exit": "leave (Ctrl-D does it, too)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    options.add_chat(parser)
    sampling_options.add(parser)
    options.add_engine(parser)


def main(args: argparse.Namespace) -> None:
    """Talk with a model; /help lists the commands.

    Ctrl-C stops the answer, Ctrl-D leaves, Alt-Enter begins a new line. Lines piped into standard input are answered
    one by one. Where there is colour, what a model thinks first is dim, and the next answer does not see it.
    """
    from pellucid.cli.conversation import Conversation

    params = sampling_options.sampling_params(args)
    with options.load(args) as llm:
        if args.chat_template is None and llm.tokenizer.chat_template is None:
            raise InvalidRequest(
                "this model has no chat template: it continues text rather than answers. "
                "Use `pellucid run`, or give a template with --chat-template"
            )
        dims = terminal.use_colour(sys.stdout, args.colour)
        conversation = Conversation(llm, params, args.system, split_reasoning=dims)
        interactive = terminal.is_terminal(sys.stdin) and terminal.is_terminal(sys.stdout)
        if interactive:
            terminal.note(
                f"{args.model}: {llm.max_model_len:,} tokens of context. /help lists the commands.", args.colour
            )
        for line in _typed_lines(args.colour) if interactive else _piped_lines():
            try:
                if not _act(conversation, line, args.colour):
                    break
            except PellucidError as error:
                if not interactive:
                    raise
                terminal.fail(str(error), args.colour)
            except KeyboardInterrupt:  # a second Ctrl-C, or one in the moment before an answer begins
                if not interactive:
                    raise
                terminal.note("[stopped]", args.colour)


def _act(conversation: Conversation, line: str, colour: bool | None) -> bool:
    """Carry out one line, a question or a /command; False when it asks to leave."""
    command, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    match command:
        case "":
            pass
        case "/exit" | "/quit" | "/bye":
            return False
        case "/help":
            for usage, meaning in HELP.items():
                terminal.note(f"{usage:<14} {meaning}", colour)
        case "/clear":
            conversation.clear()
            terminal.note("The conversation is forgotten.", colour)
        case "/system" if rest:
            conversation.set_system(rest)
            terminal.note("The system message is set.", colour)
        case "/system":
            terminal.note(conversation.system or "There is no system message.", colour)
        case "/regen":
            _answer(conversation, conversation.take_back(), colour)
        case "/save":
            conversation.save(_path(rest, "save"))
            terminal.note(f"Saved to {rest}.", colour)
        case "/load":
            conversation.load(_path(rest, "load"))
            terminal.note(f"Loaded {len(conversation.messages)} messages.", colour)
        case "/stats":
            terminal.note(conversation.stats(), colour)
        case _ if command.startswith("/") and command[1:].isalpha():
            raise InvalidParameter("command", f"there is no {command}; /help lists the commands")
        case _:
            _answer(conversation, line, colour)
    return True


def _answer(conversation: Conversation, text: str, colour: bool | None) -> None:
    """Stream the answer to stdout, reasoning dimmed; Ctrl-C ends it there."""
    on_terminal = terminal.is_terminal(sys.stdout)
    with terminal.Interruption() as stop, terminal.keys_unseen():
        thinking = False
        for piece in conversation.ask(text, stopped=lambda: bool(stop)):
            reasoning, said = (terminal.safe(t) if on_terminal else t for t in (piece.reasoning, piece.text))
            if reasoning:
                sys.stdout.write(terminal.dim(reasoning, sys.stdout, colour))
                thinking = True
            if said:
                sys.stdout.write("\n\n" + said if thinking else said)
                thinking = False
            sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    if stop:
        terminal.note("[stopped]", colour)


def _path(text: str, command: str) -> Path:
    if not text:
        raise InvalidParameter(command, f"name a file: /{command} FILE")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~name of a user there is not
        raise InvalidParameter(command, f"{text!r} names a user this machine does not have") from error


def _piped_lines() -> Iterator[str]:
    for line in sys.stdin.buffer:
        yield options.decode(line, "standard input")


def _typed_lines(colour: bool | None) -> Iterator[str]:
    """Lines from a person, with editing, history across sessions and completion of commands."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.formatted_text import FormattedText
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    history: History
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        path = cache_dir() / "chat-history"
        path.touch(mode=0o600)
        history = FileHistory(str(path))
    except OSError:
        history = InMemoryHistory()
    words = WordCompleter([usage.split()[0] for usage in HELP], sentence=True)
    session: PromptSession[str] = PromptSession(
        FormattedText([("bold ansigreen" if terminal.use_colour(sys.stdout, colour) else "", "> ")]),
        history=history,
        completer=words,
        complete_while_typing=False,
        key_bindings=keys,
    )
    while True:
        try:
            yield session.prompt()
        except KeyboardInterrupt:
            terminal.note("Ctrl-D or /exit leaves.", colour)
        except EOFError:
            return

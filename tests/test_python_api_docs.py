"""docs/python-api.md is true: its examples run, and its tables have every field with its default."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from pellucid import LLM, AsyncLLM, EngineConfig, SamplingParams
from pellucid.engine.outputs import CompletionOutput, Metrics, RequestOutput, Usage

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "python-api.md").read_text("utf-8")


def test_the_examples_run_in_order(smollm2_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 7
    names: dict[str, object] = {}
    for block in blocks:
        code = block.replace('LLM("smollm2")', f"LLM({str(smollm2_path)!r}, max_model_len=512)")
        exec(compile(code, "docs/python-api.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "Paris" in printed
    assert "but the context holds 512" in printed
    assert "early_stopping: this sampling parameter is not supported yet" in printed


@pytest.mark.parametrize(
    ("heading", "cls", "left_out"),
    [("SamplingParams", SamplingParams, set()), ("Load a model", EngineConfig, {"model"})],
)
def test_tables_have_every_field_and_its_default(heading: str, cls: type, left_out: set[str]) -> None:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    table = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", section, re.MULTILINE))
    expected = {f.name: f.default for f in fields(cls) if f.name not in left_out}
    assert MISSING not in expected.values()
    assert table == {name: repr(value).replace("'", '"') for name, value in expected.items()}


@pytest.mark.parametrize("cls", [RequestOutput, CompletionOutput, Usage, Metrics])
def test_the_table_of_results_names_every_attribute(cls: type) -> None:
    section = PAGE.split("## Results\n")[1]
    for field in fields(cls):
        if field.name != "request_id":
            assert f".{field.name}" in section


@pytest.mark.parametrize(("heading", "cls"), [("All methods", LLM), ("AsyncLLM", AsyncLLM)])
def test_the_tables_of_methods_name_all_of_them(heading: str, cls: type) -> None:
    table = PAGE.split(f"## {heading}\n")[1].split("| method | |\n")[1].split("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)[(`]", row.split("|")[1])}
    methods = {name for name, value in vars(cls).items() if callable(value) and not name.startswith("_")}
    assert named == methods

"""docs/structured-output.md is true: its examples run, and it lists the keywords and formats that the code knows."""

import json
import re
from pathlib import Path

import pytest

from pellucid.structured.json_formats import FORMATS
from pellucid.structured.json_keywords import ANNOTATIONS, ENFORCED
from pellucid.structured.structural_tag import ELEMENTS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "structured-output.md").read_text("utf-8")


def test_the_examples_run_in_order(smollm2_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        code = block.replace('LLM("smollm2")', f"LLM({str(smollm2_path)!r}, max_model_len=512)")
        exec(compile(code, "docs/structured-output.md", "exec"), names)
    printed = capsys.readouterr().out
    answer = re.match(r"stop (\{.*?\})\n", printed, re.DOTALL)
    assert answer
    assert set(json.loads(answer[1])) == {"name", "age"}
    choice, regex, _, move, refusal, call = printed.splitlines()[-6:]
    assert (choice, regex) == ("choice stop", "regex stop")
    assert re.fullmatch("[KQRBN]?[a-h][1-8](x[a-h][1-8])?[+#]?", move)
    assert "uniqueItems" in refusal
    assert re.fullmatch('<call>{"name": "weather", "arguments": {.*}}</call>', call)


def test_the_figures_are_those_of_their_result_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import structured_output

    for source in re.findall(r"From `benchmarks/results/([^`]*)`", PAGE):
        result = json.loads((structured_output.RESULTS / source).read_text("utf-8"))
        assert structured_output.with_tables(PAGE, result, source) == PAGE
        assert result["answers"]["invalid"] == 0


def test_keywords_formats_and_elements_are_listed() -> None:
    fields = [field for needed, more in ELEMENTS.values() for field in needed | more]
    missing = [name for name in (*ENFORCED, *ANNOTATIONS, *FORMATS, *ELEMENTS, *fields) if f"`{name}`" not in PAGE]
    assert missing == []

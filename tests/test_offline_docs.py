"""docs/offline.md is true: its Python runs, and so does its batch file."""

import json
import re
import subprocess
from pathlib import Path

from support.command import COMMAND

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "offline.md").read_text("utf-8")


def test_the_python_examples_run_in_order(smollm2_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        code = block.replace('LLM("smollm2")', f"LLM({str(smollm2_path)!r}, max_model_len=512)")
        exec(compile(code, "docs/offline.md", "exec"), names)


def test_the_batch_file_is_answered(smollm2_path: Path, tmp_path: Path) -> None:
    given, shape = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "in.jsonl").write_text(given, "utf-8")
    command = re.findall(r"^\$ pellucid (batch in.jsonl .*)$", PAGE, re.MULTILINE)[0].split()
    command[-1] = str(smollm2_path)
    subprocess.run([*COMMAND, *command, "-c", "256", "-q"], cwd=tmp_path, check=True, timeout=120)
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [a["custom_id"] for a in answers] == ["first", "second", "third"]
    expected = json.loads(shape)
    assert answers[0].keys() == expected.keys()
    assert answers[0]["response"].keys() == expected["response"].keys()
    assert expected["response"]["body"].keys() <= answers[0]["response"]["body"].keys()
    assert len(answers[1]["response"]["body"]["choices"]) == 2
    assert len(answers[2]["response"]["body"]["data"][0]["embedding"]) == 64

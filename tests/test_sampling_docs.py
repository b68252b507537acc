"""docs/sampling.md is true: its examples run, its order is the code's, and every parameter of the sampler is in it."""

import importlib.util
import re
from pathlib import Path

import pytest

from pellucid.sampling import SamplingParams
from pellucid.sampling_fields import SAMPLERS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "sampling.md").read_text("utf-8")


def test_the_examples_run_in_order(smollm2_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 7
    for block in blocks:
        code = block.replace('LLM("smollm2")', f"LLM({str(smollm2_path)!r}, max_model_len=128)")
        exec(compile(code, "docs/sampling.md", "exec"), names)
    assert "top_p: mirostat chooses in place of it" in capsys.readouterr().out
    names["llm"].close()  # type: ignore[attr-defined]


def test_pictures_are_current_and_shown() -> None:
    spec = importlib.util.spec_from_file_location("make_sampling_docs", ROOT / "scripts" / "make_sampling_docs.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    pictures = script.render()
    assert sorted(pictures) == sorted((ROOT / "docs" / "pictures").iterdir())
    for path, content in pictures.items():
        assert path.read_text("utf-8") == content, f"{path.name} is out of date; run `make docs`"
        assert f"](pictures/{path.name})" in PAGE


def test_the_order_is_that_of_the_code() -> None:
    words = " ".join(PAGE.split())
    assert f"Without it: {', '.join(f'`{name}`' for name in SAMPLERS)}." in words


def test_the_tables_name_what_samples() -> None:
    other = {
        "seed", "n", "stop_token_ids", "min_tokens", "max_tokens", "ignore_eos", "logprobs", "prompt_logprobs",
        "skip_special_tokens", "include_stop_str_in_output", "structured_outputs", "mirostat_eta",
        "visible_token_ids",
    }  # fmt: skip
    missing = [name for name in SamplingParams().as_dict() if name not in other and f"`{name}`" not in PAGE]
    assert missing == []

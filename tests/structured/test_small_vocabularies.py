"""Vocabularies that cannot write everything: forms that no answer can have are refused before anything is computed,
and an answer that comes to a dead end ends as an error of its request, which names the field."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher
from support.fake_model import ByteTokenizer
from support.tiny_model import SPECIAL, byte_characters, write_tiny_model

from pellucid import LLM, SamplingParams
from pellucid.errors import InvalidParameter
from pellucid.structured.letters import Letters
from pellucid.structured.vocabulary import build_table
from pellucid.structured_outputs import StructuredOutputs

USER = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
STRICT = {"type": "function", "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """Without a token for "{"."""
    tokens = ["zz" if text == "{" else text for text in [*byte_characters(), "ab", *SPECIAL]]
    facts: dict[str, Any] = {"tokenizer.ggml.tokens": tokens}
    path: Path = write_tiny_model(tmp_path_factory.mktemp("model") / "small.gguf", context=1024, **facts)
    with LLM(str(path), threads=1, kv_cache_memory="4MiB") as llm:
        yield llm


def params(**form: Any) -> SamplingParams:
    return SamplingParams(structured_outputs=StructuredOutputs(**form), max_tokens=40, seed=1)


@pytest.mark.parametrize(
    "form",
    [{"json_object": True}, {"json": {"type": "object"}}, {"regex": r"ab?\{c"}, {"choice": ["a{", "b{"]},
     {"gbnf": 'root ::= [ab]? "x{" root?'}],
)  # fmt: skip
def test_a_form_that_cannot_be_written_is_refused_at_the_call(llm: LLM, form: dict[str, Any]) -> None:
    [kind] = form
    with pytest.raises(InvalidParameter, match=f"{kind}: no answer of this form can be written.*no token for '{{'"):
        llm.generate("x", params(**form))
    done = dict(llm.as_completed(["x", "x"], [params(**form), params(regex="a{3}")]))
    refused, good = done[0], done[1]
    assert (refused.finish_reason, refused.outputs[0].error_param) == ("error", kind)
    assert good.text == "aaa"


def test_so_are_calls_that_must_be_made(llm: LLM) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "f"}}):
        with pytest.raises(InvalidParameter, match=r"tool_choice: no answer of this form.*no token for '{'"):
            llm.chat(USER, SamplingParams(max_tokens=9), tools=[TOOL], tool_choice=choice, tool_prompt=True)  # type: ignore[arg-type]
    [result] = llm.chat(USER, SamplingParams(max_tokens=9, seed=1), tools=[STRICT], tool_prompt=True)
    assert result.finish_reason == "length"  # text is possible


def test_what_can_be_written_is_not_refused(llm: LLM) -> None:
    for form, least in (({"choice": ["a{", "b"]}, "b"), ({"regex": r"(\{\})?c"}, "c")):
        assert llm.generate("x", params(**form))[0].text == least


def test_a_dead_end_in_the_middle_is_an_error_of_the_request(llm: LLM) -> None:
    """So many beginnings that not all are tried; each ends at the "{"."""
    dead, alone = params(regex="[a-z]{3}[{]"), SamplingParams(max_tokens=20, seed=2, ignore_eos=True)
    [expected] = llm.generate("y", alone)
    failed, beside = llm.generate(["x", "y"], [dead, alone])
    [answer] = failed.outputs
    assert (answer.finish_reason, answer.error_param, len(answer.token_ids)) == ("error", "regex", 3)
    assert answer.error is not None
    assert answer.error.startswith("regex: the answer has come to a place where no token")
    assert beside.token_ids == expected.token_ids
    last = list(llm.stream("x", dead))[-1]
    assert (last.finish_reason, last.error_param) == ("error", "regex")


def test_parameters_that_forbid_every_token_are_named(llm: LLM) -> None:
    a = llm.tokenize("a", add_special=False)
    [result] = llm.generate("x", SamplingParams(allowed_token_ids=a, bad_words=["a"], max_tokens=5))
    assert (result.finish_reason, result.outputs[0].error_param) == ("error", "allowed_token_ids")
    assert result.outputs[0].error is not None
    assert "every one is forbidden, by allowed_token_ids and bad_words" in result.outputs[0].error


def letters(without: bytes, *more: bytes) -> Letters:
    return Letters([b"" if bytes([i]) in without else bytes([i]) for i in range(256)] + list(more), [])


def test_only_what_is_certain_is_said() -> None:
    table, whole = build_table(ByteTokenizer(), 260)  # type: ignore[arg-type]
    assert whole.are_complete

    def obstacle(letters: Letters, rules: str) -> str | None:
        return letters.obstacle(LLMatcher(table, LLMatcher.grammar_from_lark(f"start: {rules}"), log_level=0))

    # The table can write everything: these letters are asked about alone.
    assert obstacle(whole, r"/a+\{/") is None
    assert not letters(b"{").are_complete
    assert obstacle(letters(b"{", b"{}"), '"{"') is None  # it could be part of a longer token
    assert letters(b"\x00\xff").are_complete  # no text has them

"""AsyncLLM.chat says what LLM.chat says, with tools and reasoning, whole and as a stream."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from chat.tool_templates import HERMES
from support.tiny_model import write_tiny_model
from support.tools import NOW, WEATHER

from pellucid import LLM, AsyncLLM, RequestOutput, SamplingParams, StreamChunk
from pellucid.errors import InvalidParameter

USER = {"role": "user", "content": "Weather?"}
REASONING = HERMES.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}") + "{# </think> #}"
PARAMS = SamplingParams(seed=1, max_tokens=12, ignore_eos=True, n=2)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("m") / "t.gguf", template=REASONING, context=2048)


@pytest.mark.parametrize("options", [{}, {"reasoning_parser": "none"}, {"tools": [WEATHER, NOW]}])
def test_it_says_what_the_sync_interface_says(path: Path, options: dict[str, Any]) -> None:
    async def ask() -> tuple[RequestOutput, list[StreamChunk]]:
        async with AsyncLLM(str(path), threads=1) as llm:
            whole = await llm.chat([USER], PARAMS, **options)
            return whole, [chunk async for chunk in llm.chat([USER], PARAMS, **options)]

    with LLM(str(path), threads=1) as llm:
        [expected] = llm.chat([USER], PARAMS, **options)
    whole, chunks = asyncio.run(ask())
    assert whole.outputs == expected.outputs
    assert chunks[-1].result is not None
    assert chunks[-1].result.outputs == expected.outputs
    for output in expected.outputs:
        own = [chunk for chunk in chunks if chunk.index == output.index]
        assert "".join(chunk.reasoning for chunk in own) == (output.reasoning or "")
        assert "".join(chunk.text for chunk in own) == output.text


def test_what_is_wrong_is_refused_when_the_answer_is_read(path: Path) -> None:
    async def ask() -> None:
        async with AsyncLLM(str(path), threads=1) as llm:
            answer = llm.chat([USER], tools=[WEATHER], tool_choice="sometimes")
            with pytest.raises(InvalidParameter, match="tool_choice"):
                await answer

    asyncio.run(ask())

"""docs/clients.md is true: every recipe on it is run, with the client it is for, against a running server; and clients
that are not among the development tools are tried with all they can."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.server import Server

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "clients.md").read_text("utf-8")
RECIPES = re.findall(r"^## (\w+)\n.*?```(bash|python)\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
PROGRAMS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
PRINTED = {"langchain_openai": "get_weather"}


def test_every_recipe_is_found() -> None:
    assert [name for name, _, _ in RECIPES] == ["curl", "openai", "anthropic", "langchain_openai", "litellm", "llm"]


def need(client: str, *, program: bool = False) -> None:
    if (shutil.which(client, path=PROGRAMS) if program else importlib.util.find_spec(client)) is None:
        pytest.skip(f"{client} is not installed: `make clients` installs and tries it")


def environment(folder: Path) -> dict[str, str]:
    """What a client remembers between runs goes to `folder`, and LiteLLM is not to look for prices."""
    own = {"PATH": PROGRAMS, "HOME": str(folder), "LLM_USER_PATH": str(folder)}
    return own | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}


@pytest.mark.parametrize(("client", "language", "code"), RECIPES, ids=[name for name, _, _ in RECIPES])
def test_a_recipe(client: str, language: str, code: str, smollm2_server: Server, tmp_path: Path) -> None:
    need(client, program=language == "bash")
    code = code.replace("http://127.0.0.1:8000", smollm2_server.url)
    command = ["bash", "-e", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    result = subprocess.run(
        command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=90
    )
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    assert PRINTED.get(client, "") in result.stdout
    assert not Path("extra-openai-models.yaml").exists(), "what a recipe writes does not land here"


WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "London"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather of a city", "parameters": WEATHER, "strict": True},
}
ASKED = "What is the capital of France?"


def test_langchain(smollm2_server: Server) -> None:
    need("langchain_openai")
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    common: dict[str, Any] = {"model": "smollm2", "base_url": f"{smollm2_server.url}/v1", "api_key": "none"}
    model = ChatOpenAI(**common, temperature=0, max_tokens=40, max_retries=0, seed=1)
    whole = model.invoke(ASKED)
    assert "Paris" in whole.text
    assert whole.usage_metadata["output_tokens"] > 0
    pieces = list(model.stream(ASKED, stream_usage=True))
    assert len(pieces) > 2
    assert "".join(piece.text for piece in pieces) == whole.text
    assert pieces[-1].usage_metadata or any(piece.usage_metadata for piece in pieces)
    logprobs = model.bind(logprobs=True, top_logprobs=2).invoke(ASKED).response_metadata["logprobs"]["content"]
    assert "".join(entry["token"] for entry in logprobs).startswith(whole.text[:10])
    caller = model.bind_tools([TOOL], tool_choice="required", parallel_tool_calls=False)
    called = caller.invoke("How is the weather in Paris?")
    [call] = called.tool_calls
    assert (call["name"], call["args"].keys()) == ("get_weather", {"city"})
    said = [HumanMessage("How is the weather in Paris?"), called, ToolMessage("Rain", tool_call_id=call["id"])]
    assert model.bind_tools([TOOL], tool_choice="none").invoke(said).text
    city = model.with_structured_output({"title": "city", **WEATHER}, method="json_schema", strict=True)
    assert city.invoke("Name a city.")["city"] in ("Paris", "London")
    vectors = OpenAIEmbeddings(**common, check_embedding_ctx_length=False).embed_documents(["a cat", "a kitten"])
    assert len(vectors) == 2
    assert len(vectors[0]) == len(vectors[1]) > 100


def test_litellm(smollm2_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    need("litellm")
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    common: dict[str, Any] = {"model": "openai/smollm2", "api_base": f"{smollm2_server.url}/v1", "api_key": "none"}
    chat: dict[str, Any] = {**common, "temperature": 0, "max_tokens": 40, "seed": 1, "max_retries": 0}
    messages = [{"role": "user", "content": ASKED}]
    whole = litellm.completion(messages=messages, **chat)
    assert "Paris" in whole.choices[0].message.content
    pieces = [
        piece.choices[0].delta.content or "" for piece in litellm.completion(messages=messages, stream=True, **chat)
    ]
    assert "".join(pieces) == whole.choices[0].message.content
    called = litellm.completion(messages=messages, tools=[TOOL], tool_choice="required", **chat)
    call = called.choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments).keys()) == ("get_weather", {"city"})
    form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": WEATHER}}
    answer = litellm.completion(messages=messages, response_format=form, **chat).choices[0].message.content
    assert json.loads(answer)["city"] in ("Paris", "London")
    vectors = litellm.embedding(input=["a cat", "a kitten"], encoding_format="float", **common).data
    assert len(vectors) == 2
    text = {**chat, "model": "text-completion-openai/smollm2"}
    assert litellm.text_completion(prompt="Once upon a time", **text).choices[0].text


def test_llm(smollm2_server: Server, tmp_path: Path) -> None:
    need("llm", program=True)
    model = {"model_id": "pellucid", "model_name": "smollm2", "api_base": f"{smollm2_server.url}/v1"}
    entries = [{**model, "supports_tools": True, "supports_schema": True}]
    entries.append({**model, "model_id": "pellucid-text", "completion": True})
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(entries))  # JSON is YAML

    def llm(*arguments: str) -> str:
        result = subprocess.run(
            [shutil.which("llm", path=PROGRAMS) or "llm", *arguments], env=environment(tmp_path), cwd=tmp_path,
            capture_output=True, text=True, check=False, timeout=90, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stdout

    options = ("-m", "pellucid", "-o", "temperature", "0", "-o", "max_tokens", "40")
    streamed = llm(*options, ASKED)
    assert "Paris" in streamed
    assert llm(*options, "--no-stream", ASKED) == streamed
    assert llm(*options, "--continue", "And of Italy?").strip()
    assert json.loads(llm(*options, "--schema", json.dumps(WEATHER), "Name a city."))["city"] in ("Paris", "London")
    assert llm(
        *options, "--functions", "def get_weather(city: str) -> str:\n    'The weather'\n    return 'Rain'", ASKED
    )
    assert llm("-m", "pellucid-text", "-o", "max_tokens", "10", "Once upon a time").strip()

"""ModelRegistry: several models under one server, by names that cannot be paths, loaded and unloaded while in use."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.engines import QUICK, SETTINGS, asked, children, open_files, until, whole
from support.faulty_engine import command
from support.tiny_model import write_tiny_model

from pellucid.errors import EngineUnavailable, InvalidParameter, ModelNotFound
from pellucid.server.registry import ModelRegistry, ServedModel

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 60))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


def settings(path: Path) -> dict[str, Any]:
    return {"model": str(path), **SETTINGS}


def registry(path: Path) -> ModelRegistry:
    first = ServedModel("first", settings(path), aliases=("gpt-4o", "default"))
    second = ServedModel("second", settings(path), on_demand=True)
    return ModelRegistry([first, second], policy=QUICK, command=command())


def test_models_are_found_by_name_loaded_on_demand_and_unloaded_when_nobody_uses_them(path: Path) -> None:
    async def serve() -> None:
        before, files = children(), open_files()
        models = registry(path)
        models.start()
        await models.attach()
        first = models.get("gpt-4o")
        assert first is models.get("default") is models.get("first")
        assert models.names == {"first": "first", "gpt-4o": "first", "default": "first", "second": "second"}
        assert set(models.clients) == {"first"}
        answers = await asyncio.gather(whole(first, asked("a")), whole(models.get("second"), asked("a")))
        assert answers[0].outputs == answers[1].outputs
        assert len(children() - before) == 2

        running = asyncio.ensure_future(whole(first, asked("b", fault="sleep:0.01", max_tokens=60)))
        await until(lambda: first.num_calls == 1)
        unloading = asyncio.ensure_future(models.unload("first"))
        again = asyncio.ensure_future(models.unload("default"))
        await asyncio.sleep(0.05)
        assert not unloading.done(), "a request uses it"
        with pytest.raises(EngineUnavailable, match="being unloaded"):
            models.get("first")
        assert len((await running).token_ids) == 60
        await unloading
        await again
        assert len(children() - before) == 1
        with pytest.raises(EngineUnavailable, match="not loaded"):
            models.get("gpt-4o")
        await models.unload("first")

        await models.load("gpt-4o")
        assert (await whole(models.get("first"), asked("a"))).outputs == answers[0].outputs
        await models.drained()
        await models.close()
        await models.close()
        assert children() == before
        assert open_files() == files

    run(serve())


def test_closing_while_a_model_is_loaded_or_unloaded_leaves_nothing(path: Path) -> None:
    async def serve() -> None:
        before = children()
        models = registry(path)
        models.start()
        await models.attach()
        await models.clients["first"].ready()
        running = asyncio.ensure_future(whole(models.get("first"), asked(fault="sleep:1", max_tokens=200)))
        await until(lambda: models.get("first").num_calls == 1)
        unloading = asyncio.ensure_future(models.unload("first"))
        models.get("second")
        await asyncio.sleep(0.01)
        await models.close()
        with pytest.raises(EngineUnavailable):
            await running
        await asyncio.gather(unloading, return_exceptions=True)
        assert children() == before

    run(serve())


def test_a_registry_that_never_met_a_loop_can_be_killed(path: Path) -> None:
    before, files = children(), open_files()
    models = registry(path)
    models.start()
    assert len(children() - before) == 1
    models.kill()
    assert children() == before
    assert open_files() == files


def test_names_that_are_not_there(path: Path) -> None:
    models = registry(path)
    with pytest.raises(ModelNotFound, match="first, second"):
        models.get("third")
    with pytest.raises(ModelNotFound):
        run(models.unload("third"))
    with pytest.raises(InvalidParameter, match="several"):
        models.get(None)
    alone = ModelRegistry([ServedModel("one", settings(path))], command=command())
    assert alone.get(None) is alone.get("one")


@pytest.mark.parametrize(
    "name", ["", "a/b", "../x", "a..b", "%2e%2e%2f", "a\0b", "a b", "a\n", "ä", "a" * 129, None, 3, "\x1b[31m"]
)
def test_names_that_cannot_be_names(path: Path, name: Any) -> None:
    with pytest.raises(InvalidParameter, match="letters, digits") as caught:
        ModelRegistry([ServedModel(name, settings(path))])
    assert len(str(caught.value)) < 300
    with pytest.raises(InvalidParameter):
        ModelRegistry([ServedModel("fine", settings(path), aliases=[name])])


def test_no_two_models_have_one_name(path: Path) -> None:
    with pytest.raises(InvalidParameter, match="two models"):
        ModelRegistry([ServedModel("a", settings(path)), ServedModel("b", settings(path), aliases=["a"])])

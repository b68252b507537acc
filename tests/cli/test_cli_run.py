"""`pellucid run`: where prompts come from, what goes to which stream, exit codes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support.command import COMMAND, Pellucid
from support.tiny_model import write_tiny_model

GREEDY = ("-n", "8", "--temp", "0")


def test_stdout_holds_the_answer_and_stderr_the_figures(pellucid: Pellucid, tiny: Path) -> None:
    done = pellucid("run", tiny, "hello", *GREEDY)
    assert done.returncode == 0
    assert done.stdout.endswith("\n")
    assert "tokens" not in done.stdout
    assert "answer 8 tokens" in done.stderr
    assert "first token after" in done.stderr
    assert "\x1b" not in done.stderr
    assert pellucid("run", tiny, "hello", *GREEDY, "-q").stderr == ""


def test_every_way_to_give_the_prompt_is_the_same(pellucid: Pellucid, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_text("hello\n")
    answers = [
        pellucid("run", tiny, "hello", *GREEDY),
        pellucid("run", tiny, "-p", "hello", *GREEDY),
        pellucid("run", tiny, "-f", tmp_path / "prompt", *GREEDY),
        pellucid("run", tiny, "-f", "-", *GREEDY, stdin="hello\n"),
        pellucid("run", tiny, *GREEDY, stdin="hello"),
        pellucid("run", "-m", tiny, "hello", *GREEDY),
    ]
    assert [done.returncode for done in answers] == [0] * len(answers)
    assert len({done.stdout for done in answers}) == 1
    assert answers[0].stdout != pellucid("run", tiny, "goodbye", *GREEDY).stdout


def test_json_tells_everything(pellucid: Pellucid, tiny: Path) -> None:
    chat = json.loads(pellucid("run", tiny, "hello", "--system", "be brief", "--json", *GREEDY, "-s", "7").stdout)
    assert chat["receipt"]["prompt"] == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat["receipt"]["seed"] == 7
    assert chat["usage"]["completion_tokens"] == 8
    raw = json.loads(pellucid("run", tiny, "hello", "--raw", "--json", *GREEDY).stdout)
    assert raw["prompt"] == raw["receipt"]["prompt"] == "hello"


def test_a_chat_template_can_be_text_or_a_file(pellucid: Pellucid, tiny: Path, tmp_path: Path) -> None:
    template = "Q: {{ messages[0].content }} A:"
    (tmp_path / "template.jinja").write_text(template)
    for given in (template, str(tmp_path / "template.jinja")):
        done = pellucid("run", tiny, "hello", "--json", "--chat-template", given, *GREEDY)
        assert json.loads(done.stdout)["receipt"]["prompt"] == "Q: hello A:"


def test_a_base_model_continues_the_text(pellucid: Pellucid, tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base.gguf", template=None)
    assert json.loads(pellucid("run", base, "hello", "--json", *GREEDY).stdout)["receipt"]["prompt"] == "hello"
    done = pellucid("run", base, "hello", "--system", "x")
    assert done.returncode == 2
    assert "no chat template" in done.stderr


def test_the_seed_repeats_an_answer(pellucid: Pellucid, tiny: Path) -> None:
    hot = ("run", tiny, "hello", "-n", "12", "--temp", "5")
    runs = [pellucid(*hot, "-s", seed, "-t", threads) for seed, threads in (("3", "1"), ("3", "2"), ("4", "1"))]
    assert runs[0].stdout == runs[1].stdout != runs[2].stdout


def test_the_reason_for_an_early_end_is_told(pellucid: Pellucid, tiny: Path) -> None:
    assert "stopped: the longest answer asked for" in pellucid("run", tiny, "hello", *GREEDY).stderr
    done = pellucid("run", tiny, "hello", "--temp", "0", "-c", "30")
    assert done.returncode == 0
    assert "stopped: the context is full" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run"], 2, "no MODEL given"),
        (["run", "MODEL", "hi", "-p", "hi"], 2, "prompt: given twice, as PROMPT and as -p"),
        (["run", "MODEL", "hi", "--temp", "-1"], 2, "temperature"),
        (["run", "MODEL", "hi", "--temp", "nan"], 2, "temperature"),
        (["run", "MODEL", "hi", "--top-p", "0"], 2, "top_p"),
        (["run", "MODEL", "hi", "-n", "0"], 2, "max_tokens"),
        (["run", "MODEL", "hi", "-s", str(2**64)], 2, "seed"),
        (["run", "MODEL", "hi", "-t", "0"], 2, "threads"),
        (["run", "MODEL", "hi", "-c", "257"], 2, "max_model_len: is 257, expected 1 to 256"),
        (["run", "MODEL", "hi", "--isa", "mmx"], 1, "isa is 'mmx'"),
        (["run", "MODEL", "hi", "--kv-cache-dtype", "int3"], 1, "kv_cache_dtype is 'int3', expected one of auto, "),
        (["run", "MODEL", "hi", "--executor", "gpu"], 1, "there is no executor 'gpu'"),
        (["run", "MODEL", "hi", "--raw", "--system", "x"], 2, "--raw uses no chat template"),
        (["run", "MODEL", "hi", "--chat-template", "{{ 1 / 0 }}"], 2, "template"),
        (["run", "MODEL", "x" * 300], 2, "256"),
        (["run", "MODEL", "-f", "no-such-file"], 2, "'no-such-file' cannot be read: No such file"),
        (["run", "MODEL", "hi", "--lora", "x"], 2, "unrecognized arguments: --lora x"),
        (["run", "MODEL", "hi", "--tem", "1"], 2, "unrecognized arguments: --tem"),
        (["run", "smolm2", "hi"], 1, "Did you mean 'smollm2'?"),
        (["answer", "MODEL"], 2, "invalid choice: 'answer'"),
    ],
)
def test_errors_are_one_message_without_a_traceback(
    pellucid: Pellucid, tiny: Path, arguments: list[str], code: int, words: str
) -> None:
    done = pellucid(*[str(tiny) if argument == "MODEL" else argument for argument in arguments])
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(pellucid: Pellucid) -> None:
    done = pellucid("run", "nope", "hi", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_prompt_that_is_no_text_is_refused(pellucid: Pellucid, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_bytes(b"abc\xff")
    done = pellucid("run", tiny, "-f", tmp_path / "prompt")
    assert done.returncode == 2
    assert "found byte 0xff at offset 3" in done.stderr


def test_a_reader_that_leaves_is_no_error(environment: dict[str, str], tiny: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "run", str(tiny), "hello", "-n", "200", "--temp", "0", "-q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_help_and_version(pellucid: Pellucid) -> None:
    from pellucid import __version__

    assert pellucid("--version").stdout == f"pellucid {__version__}\n"
    overview = pellucid("--help").stdout
    for command in ("run", "chat", "inspect", "list", "pull", "doctor"):
        assert f"\n    {command} " in overview
        assert pellucid(command, "--help").stdout.startswith(f"usage: pellucid {command} ")
    assert pellucid().stdout == overview


@pytest.mark.parametrize(("asked", "start"), [("--color", "\x1b[1;31merror:"), ("--no-color", "error:")])
def test_an_error_is_coloured_as_asked(pellucid: Pellucid, tiny: Path, asked: str, start: str) -> None:
    done = pellucid("run", tiny, "hi", "-n", "0", asked)
    assert done.returncode == 2
    assert done.stderr.startswith(start)


def test_a_plain_prompt_waits_for_nothing_it_does_not_use(pellucid: Pellucid, tiny: Path) -> None:
    """The tiny model has a chat template, which --raw does not use."""
    raw = pellucid("run", tiny, "hello", "--raw", *GREEDY, PYTHONPROFILEIMPORTTIME="1")
    assert raw.returncode == 0
    loaded = {line.rpartition("|")[2].strip() for line in raw.stderr.splitlines() if line.startswith("import time:")}
    assert "pellucid.engine.llm" in loaded
    assert loaded & {"jinja2", "rich", "llguidance", "asyncio", "pellucid.chat.turn"} == set()

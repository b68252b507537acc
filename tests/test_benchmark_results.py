"""The comparison with llama.cpp: its rounds and parts, what is told of them, and the page that is made of them."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from support.divergence import log_softmax, top_agreement, top_kl
from support.tiny_model import write_tiny_model

from pellucid.cli.main import build_parser
from pellucid.tools.bench_profile import PARTS

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def model(name: str, *rounds: dict[str, Any], **parts: Any) -> dict[str, Any]:
    program = {"isa": "avx2", "kv": [[0, 1024]], "context_length": 8192, "kv_cache_dtype": "float16"}
    program |= {"weight_nbytes": 10**9, "flops_per_token": 10**9, "flops_per_logit_row": 10**8}
    about = {"program": program, "file_nbytes": 10**9}
    return {"name": name, "title": name.upper(), "rounds": [{"others": 0.0, **one} for one in rounds], **about, **parts}


def result(*models: dict[str, Any], flags: tuple[str, ...] = ("avx2",)) -> dict[str, Any]:
    limits = {"read_one": 1e10, "read_all": 2e10, "float_one": 1e11, "float_all": 2e11}
    limits |= {"integer_one": 1e11, "integer_all": 2e11, "num_threads": 2, "isa": "avx2"}  # type: ignore[dict-item]
    about = {"cpu": "C", "cores": 2, "memory_gib": 24.0, "instruction_sets": list(flags)}
    return {
        "date": "2026-01-01", "commit": "abc", "command": "run", "machine": about, "threads": 2, "peer": "llama.cpp b1",
        "activations": "int16,int8", "limits": [limits], "models": list(models),
    }  # fmt: skip


def pair(ours: dict[str, float], theirs: dict[str, float], int8: dict[str, float] | None = None) -> dict[str, Any]:
    engines = {"pellucid": ours, "llama.cpp": theirs, **({"pellucid int8": int8} if int8 else {})}
    return {engine: {key: [value] for key, value in samples.items()} for engine, samples in engines.items()}


def test_ratios_say_how_many_times_better() -> None:
    import report

    rounds = [pair({"decode_1": rate, "peak_mib": 2}, {"decode_1": 10, "peak_mib": 1}) for rate in (20, 30, 40)]
    found = model("m", *rounds)
    assert report._ratio(found, "pellucid", "llama.cpp", "decode_1") == "3.00× (2.00 to 4.00)"
    assert report._ratio(found, "pellucid", "llama.cpp", "peak_mib") == "0.50× (0.50 to 0.50)"
    assert report._ratio(model("m", rounds[0]), "pellucid", "llama.cpp", "decode_1") == "2.00×"
    assert report._ratio(found, "pellucid int8", "llama.cpp", "decode_1") == ""


@pytest.mark.parametrize(("share", "warned"), [(0.02, False), (0.4, True)])
@pytest.mark.parametrize("part", ["rounds", "long", "threads"])
def test_a_busy_machine_is_reported(share: float, warned: bool, part: str) -> None:
    import report

    quiet, found = {"others": 0.01}, {"others": share}
    one: dict[str, Any] = {"rounds": [quiet], **({part: found} if part != "rounds" else {})}
    one["rounds"] += [found] if part == "rounds" else []
    assert ("TOO BUSY" in report.others_line({"models": [one]})) is warned


def test_every_engine_has_its_columns() -> None:
    import report

    found = model("m", pair({"decode_1": 20}, {"decode_1": 10}, {"decode_1": 25, "first_token": 1}))
    head, _, row = report.model_table(found, result()["limits"]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (head, row)]
    assert cells[0] == [
        "work", "Pellucid", "achieved", "share of the limit", "llama.cpp", "ratio", "with int8", "ratio",
    ]  # fmt: skip
    assert cells[1] == [
        "decode, 1 stream", "20.0 tok/s", "20.0 GB/s", "100% of reading", "10.0 tok/s", "2.00×", "25.0 tok/s", "2.50×",
    ]  # fmt: skip


def test_goals_are_judged_where_they_can_be() -> None:
    import goals

    fast = {"decode_1": 20.0, "prefill_512": 30.0, "streams_32": 80.0, "first_token": 0.4, "peak_mib": 900.0}
    slow = {"decode_1": 10.0, "prefill_512": 10.0, "streams_32": 10.0, "first_token": 1.0, "peak_mib": 900.0}
    one = model("smollm2", pair(fast, slow), quality={"pellucid": {"mean_kl": 0.002, "same_top": 0.9}})
    for flags, prefill in ((("avx2",), "3.00 of 4.5: needs AMX"), (("amx_bf16",), "3.00 of 4.5: **missed**")):
        cells = {row[0]: row[1:3] for row in goals.by_model(result(one, flags=flags))}
        assert cells["decode, 1 stream, times llama.cpp"] == ["2.00 of 1.6: met", "not measured"]
        assert cells["prefill, 512 tokens, times llama.cpp"][0] == prefill
        assert cells["decode, 32 streams, total, times llama.cpp"][0] == "8.00 of 7: met"
        assert cells["process start to first token"] == ["0.40 of 0.5 s: met", "not measured"]
        assert cells["peak memory, of 1.15 × file + KV + 90 MiB"][0] == "900 of 1,187 MiB: met"
        assert cells["mean KL to float32"] == ["0.002 of 0.001: **missed**", "not measured"]
    assert goals.by_model(result(one))[-3][-1] == "", "no goal for the start of this model"


def test_single_goals() -> None:
    import goals

    nothing = {row[0]: row[2] for row in goals.single(result())[1:]}
    assert set(nothing.values()) == {"not measured", "not measurable here"}
    ours = {"decode_1": 18.0, "prefill_512": 30.0, "decode_1_at_8192": 9.0, "prefill_8192": 27.0}
    threads = {"counts": {n: {"prefill_512": [r], "decode_1": [r]} for n, r in (("1", 10.0), ("2", 19.0))}, "others": 0}
    rows = pair(ours, {"decode_1": 9.0, "prefill_512": 31.0})
    large = model("perf-8b-q4_k_m", pair({"load": 3.0, "peak_mib": 5000.0}, {}))
    found = goals.single(result(model("perf-1b-q4_k_m", rows, threads=threads), large))
    verdicts = {row[0].split(":")[-1].strip()[:24]: row[1:] for row in found}
    assert verdicts["decode at ≥ 85 % of the "] == ["90%", "met"]
    assert verdicts["decode at 8,192 tokens o"] == ["50%", "**missed**"]
    assert verdicts["prefill of 8,192 tokens "] == ["90%", "met"]
    assert verdicts["prefill grows ≥ 1.8 time"] == ["1.90×", "met"]
    level = next(row for row in found if row[0].startswith("avx2"))
    assert level[1:] == ["PERF-1B-Q4_K_M decode 2.00×; PERF-1B-Q4_K_M prefill 0.97×", "not measured"]
    assert next(row for row in found if row[0].startswith("avx512"))[2] == "not measurable here"
    assert verdicts["runs within 24 GiB, its "] == ["load 3.00 s; peak memory of that process 5,000 MiB", "met"]


def test_what_the_matrices_reach_is_told_without_the_rest() -> None:
    import sections

    shares = {"multiply": 0.4, "inputs": 0.1, "logits": 0.1, "attention": 0.2, "rest": 0.1, "outside": 0.1}
    steps = {"decode_1": {"step": 0.2, **shares}, "prefill_512_at_8192": {"step": 10.24, **shares}}
    rows = sections.profile(result(model("m", profile={"pellucid": steps})))
    assert rows[1][:5] == ["M", "decode, 1 stream", "200 ms", "40%", "10%"]
    assert rows[1][-1] == "50% of reading"  # 10^9 bytes in half of 0.2 s, of 2 * 10^10 a second
    assert rows[2][-1] == "50% of arithmetic"  # 512 * 10^9 operations in half of 10.24 s, of 2 * 10^11 a second


SERVER = """#!{python}
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        logprobs = {logprobs}[len(asked["prompt"]) - 1]
        listed = [{{"id": token, "logprob": logprob}} for token, logprob in enumerate(logprobs)][: asked["n_probs"]]
        body = json.dumps({{"completion_probabilities": [{{"top_logprobs": listed}}]}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def test_llama_cpp_is_compared_with_float32_as_pellucid_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import golden_quality
    from bench_models import BenchModel

    rng = np.random.default_rng(0)
    exact, logits = rng.normal(0, 2, (2, 3, 40)).astype(np.float32)
    logits += exact
    golden = {"token_ids": np.arange(3), "argmax": exact.argmax(-1), "top_ids": np.argsort(-exact)[:, :8]}
    golden["top_logprobs"] = np.take_along_axis(log_softmax(exact), golden["top_ids"], -1)
    golden["rest_logprob"] = np.log1p(-np.exp(golden["top_logprobs"]).sum(-1))
    monkeypatch.setattr(golden_quality, "golden_of", lambda name: golden)
    server = tmp_path / "llama-server"
    server.write_text(SERVER.format(python=sys.executable, logprobs=log_softmax(logits).tolist()))
    server.chmod(0o755)
    found = golden_quality.peer_quality(server, BenchModel("m", "M", tmp_path, tmp_path), 1)
    assert found["mean_kl"] == pytest.approx(top_kl(golden, logits).mean(), rel=1e-4)
    assert found["same_top"] == top_agreement(golden, logits)
    assert found["positions"] == 3
    monkeypatch.setattr(golden_quality, "LISTED", 30)  # what is not listed counts with the rest
    fewer = golden_quality.peer_quality(server, BenchModel("m", "M", tmp_path, tmp_path), 1)
    assert 0 < fewer["mean_kl"] < found["mean_kl"]


def test_the_performance_page_is_what_its_results_say() -> None:
    import make_performance_doc

    text = make_performance_doc.DOC.read_text(encoding="utf-8")
    [name] = set(re.findall(r"benchmarks/results/(\S+?-peers\.json)", text))
    made = make_performance_doc.files(BENCHMARKS / "results" / name)
    for path, content in made.items():
        assert path.read_text(encoding="utf-8") == content, path.name
    assert set(make_performance_doc.DOC.parent.glob("performance*.svg")) <= set(made), "no picture of an earlier page"


FAKE = """#!{python}
import json, sys
ballast = bytearray(40 << 20)
def numbers(name):
    return [int(n) for n in sys.argv[sys.argv.index(name) + 1].split(",")]
if "{tool}" == "llama-bench":
    print(json.dumps([{{"samples_ts": [50.0]}}]))
elif "{tool}" == "llama-completion":
    print("x" + " b1" * ("--version" in sys.argv))
else:
    for pp in numbers("-npp"):
        for pl in numbers("-npl"):
            print(json.dumps({{"pp": pp, "pl": pl, "speed_pp": 40.0 + pp, "speed_tg": 10.0 * pl}}))
"""


def made_up(path: Path, args: argparse.Namespace, activations: str, options: list[str]) -> dict[str, Any]:
    """What `pellucid bench` with these options might find: it does not run, but its options are checked."""
    parsed = build_parser("bench").parse_args([str(path), "--activations", activations, *options])
    works = parsed.only.split(",")
    keys = [f"prefill_{parsed.prefill}"] * ("prefill" in works) + ["decode_1"] * ("decode" in works)
    keys += [f"streams_{n}" for n in parsed.streams.split(",") if "streams" in works]
    keys += ["first_token", "peak_mib"] * ("start" in works)
    contexts = parsed.context.split(",") if "context" in works else []
    keys += [f"{work}_{n}" for work in ("prefill", "decode_1_at") for n in contexts]
    profile = {"step": 0.1, **dict.fromkeys(PARTS, 1 / len(PARTS))}
    profiled = ["decode_1", *(f"decode_1_at_{n}" for n in contexts)] if "profile" in works else []
    about = {**model("m")["program"], "isa": parsed.isa or "avx2"}
    return {
        "samples": {key: [100.0 * int(parsed.threads or 2)] for key in keys}, "limits": result()["limits"],
        "program": about, "model": {"file_nbytes": 10**9}, "profile": dict.fromkeys(profiled, profile),
    }  # fmt: skip


def test_parts_and_rounds_are_added_to_one_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import golden_quality
    import make_performance_doc
    import report
    import rounds
    import run

    for tool in ("llama-bench", "llama-batched-bench", "llama-completion"):
        program = tmp_path / tool
        program.write_text(FAKE.format(python=sys.executable, tool=tool))
        program.chmod(0o755)
    path = write_tiny_model(tmp_path / "smollm2.gguf")
    monkeypatch.setattr(rounds, "_pellucid", made_up)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")

    def measure(*options: str) -> None:
        arguments = ["run.py", "--models", str(path), "--llama-bin", str(tmp_path), "--threads", "2", "--repeats", "1"]
        monkeypatch.setattr(sys, "argv", [*arguments, "--rounds", "1", *options])
        run.main()

    measure("--parts", "rounds")
    [out] = (tmp_path / "results").iterdir()
    measure("--parts", "rounds,threads,context", "--into", str(out))
    found = json.loads(out.read_text())
    [one] = found["models"]
    assert len(one["rounds"]) == 2
    assert set(one["rounds"][0]) == {"pellucid", "llama.cpp", "pellucid int8", "others"}
    assert one["rounds"][0]["llama.cpp"]["streams_64"] == [640.0]
    assert one["long"]["llama.cpp"]["prefill_8192"] == [8200.0]
    assert {n: samples["prefill_512"] for n, samples in one["threads"]["counts"].items()} == {"1": [100], "2": [200]}
    assert list(one["profile"]["pellucid int8"]) == [
        "decode_1",
        *(f"decode_1_at_{n}" for n in (1024, 2048, 4096, 8192)),
    ]
    assert found["command"].count("run.py") == 2
    assert str(tmp_path) not in out.read_text()

    files = make_performance_doc.files(out)
    assert [file.name for file in files] == [
        "performance.md", "performance.svg", "performance-streams.svg", "performance-context.svg",
        "performance-profile.svg",
    ]  # fmt: skip
    page = files[make_performance_doc.DOC]
    for file, content in files.items():
        if file.suffix == ".svg":
            ElementTree.fromstring(content)
            assert f"({file.name})" in page
    for heading in ("Long contexts", "Growth with threads", "Where the time goes", "smollm2"):
        assert f"## {heading}" in page
    assert "## Growth with threads" in capsys.readouterr().out

    out.unlink()
    measure("--parts", "threads")  # alone
    measure("--parts", "context", "--into", str(out))
    assert "## Long contexts" in capsys.readouterr().out
    monkeypatch.setattr(golden_quality, "quality", lambda *about: {"mean_kl": 0.5, "same_top": 1.0})
    out.unlink()
    measure("--parts", "quality")
    assert "0.5 " in capsys.readouterr().out
    measure("--parts", "rounds", "--activations", "int8")
    assert {path.name.partition("-peers")[2] for path in out.parent.iterdir()} == {".json", "-int8.json"}
    assert "activations: int8\n" in capsys.readouterr().out

    with pytest.raises(SystemExit, match="activations int16,int8, this run int8"):
        measure("--into", str(out), "--activations", "int8")
    with pytest.raises(SystemExit, match="2"):
        measure("--parts", "round")
    assert "no part 'round'" in capsys.readouterr().err


def test_a_measured_command_is_one_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rounds

    args = argparse.Namespace(threads=1, isa="portable")
    options = ["--decode", "4", "--only", "decode,profile"]
    found = rounds._pellucid(write_tiny_model(tmp_path / "tiny.gguf", context=512), args, "int8", options)
    assert found["samples"]["decode_1"][0] > 0
    assert found["program"]["isa"] == "portable"
    assert found["program"]["activations"] == "int8"

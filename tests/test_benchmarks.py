"""The benchmarks' own arithmetic; tests/test_benchmark_results.py has those of the comparison with llama.cpp."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_jobs_are_the_same_for_every_engine() -> None:
    """A peer's worker makes them anew in its own process, so they must follow from the seed alone."""
    from many_requests import NEW_TOKENS, SHARED_TOKENS, USER_TOKENS, jobs

    work = jobs(64, 1000)
    assert work == jobs(64, 1000)
    assert work[:8] == jobs(8, 1000), "fewer jobs are the first of the same ones"
    assert len({tuple(job.prompt[:SHARED_TOKENS]) for job in work}) == 1
    assert len({tuple(job.prompt) for job in work}) == 64
    lengths = [len(job.prompt) - SHARED_TOKENS for job in work]
    assert USER_TOKENS[0] <= min(lengths) < max(lengths) <= USER_TOKENS[1]
    assert all(NEW_TOKENS[0] <= job.num_new <= NEW_TOKENS[1] for job in work)


def test_the_proofs_run() -> None:
    """With counts so small that they prove nothing; the library's own tests have sensible ones."""
    script = [sys.executable, str(BENCHMARKS / "proof.py")]
    small = subprocess.run(
        [*script, "machine", "simulation", "cancels", "--scale", "0.001"], capture_output=True, text=True, check=True
    )
    assert re.findall(r'"(examples|seeds|leaked_blocks)": (\d+)', small.stdout) == [
        ("examples", "2"),
        ("seeds", "10"),
        ("leaked_blocks", "0"),
    ]
    again = subprocess.run([*script, "--seed", "5"], capture_output=True, text=True, check=True).stdout
    assert "req-0 arrives: " in again
    unknown = subprocess.run([*script, "all"], capture_output=True, text=True, check=False)
    assert unknown.returncode == 2
    assert "there is no part all; expected some of machine, simulation" in unknown.stderr


def test_servers_are_compared_by_medians() -> None:
    import compare_servers

    def one(rate: float, first: float) -> dict[str, object]:
        times = {"p50": first, "p90": first, "p99": 2 * first}
        return {"new_tokens_per_second": rate, "first_token": times, "between_tokens": None}

    rounds = [
        {"pellucid": one(30.0, 0.1), "llama-server": one(10.0, 0.4), "offline": {"new_tokens_per_second": 31.0}},
        {"pellucid": one(50.0, 0.3), "llama-server": one(10.0, 0.4), "offline": {"new_tokens_per_second": 49.0}},
    ]
    model = {"title": "M", "runs": [{"streams": 8, "rounds": rounds}]}
    (rate, rates), (time, times) = compare_servers.ratios(model)
    assert (rate, time) == ("8 streams, tokens/s", "8 streams, first token p99")
    assert (rates, times) == (pytest.approx(4.0), pytest.approx(2.0))
    assert ">4.00×<" in compare_servers.ratio_bars("servers", [("M", [("8 streams, tokens/s", rates)])])
    assert compare_servers.table(model).splitlines()[4:] == [
        "| 8 | pellucid | 40.0 | 100% | 200 / 400 |  |",
        "| 8 | llama-server | 10.0 |  | 400 / 800 |  |",
        "| 8 | offline | 40.0 |  |  |  |",
    ]


def test_overload_is_told_by_its_ratios() -> None:
    import overload

    def half(p99: float, rate: float, answered: int = 10, refused: int = 0) -> dict[str, object]:
        times = {"p50": 0.01, "p90": 0.02, "p99": 0.05} if refused else None
        return {
            "options": {"num_requests": 10}, "answered": answered, "whole": {"p99": p99}, "requests_per_second": rate,
            "errors": {"429": refused} if refused else {}, "refusal": times,
        }  # fmt: skip

    model = {
        "name": "m", "alone": half(1.0, 5.0), "beside lorises": half(1.5, 5.0), "unloaded": half(2.0, 10.0),
        "overloaded": half(9.0, 9.5, answered=9, refused=30),
    }  # fmt: skip
    assert overload.table([model]).splitlines()[2] == (
        "| m | 1.00 s | 1.50 s | 1.50 | 10.0 | 9.5 | 0.95 | 30 | 10 ms | 50 ms | 1 |"
    )


def test_faults_are_told_by_the_longest_times() -> None:
    import faults

    kinds = {"engine_killed": {"times": 5, "unready": 1.25}, "SIGTERM at rest": {"times": 6, "ended": 0.5}}
    assert faults.about(kinds).startswith("2 kinds, each at least 5 times; never longer than 1.2 s")
    assert faults.table(kinds).splitlines()[2:] == [
        "| engine killed | 5 | 1.25 s |  |",
        "| SIGTERM at rest | 6 |  | 0.50 s |",
    ]


def test_figures_stand_between_their_marks(tmp_path: Path) -> None:
    import figures

    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x -->\nold\n<!-- end of x -->\nb\n")
    figures.put(page, "x", r"new \1")
    assert page.read_text() == "a\n<!-- x -->\nnew \\1\n<!-- end of x -->\nb\n"
    with pytest.raises(ValueError, match="0 places"):
        figures.put(page, "y", "z")


FAKE_SERVER = """#!{python}
import http.server, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def test_a_peer_is_started_and_stopped(tmp_path: Path) -> None:
    import llama_server

    program = tmp_path / "llama-server"
    program.write_text(FAKE_SERVER.format(python=sys.executable))
    program.chmod(0o755)
    with llama_server.llama_server(program, tmp_path / "model.gguf", 8, 2, 64) as url:
        assert llama_server.healthy(f"{url}/health")
    assert not llama_server.healthy(f"{url}/health")
    program.write_text("#!/bin/false\n")
    with pytest.raises(SystemExit, match="does not start"), llama_server.llama_server(program, tmp_path, 8, 2, 64):
        pass

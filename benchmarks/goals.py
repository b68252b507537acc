"""The goals for speed, each with what a result says about it: met, missed, not measured, or not measurable here.

Goals of arithmetic were set for a machine with AMX. Elsewhere they cannot be judged; the ratio found is told all the
same. Goals of reading, starting, memory and accuracy hold anywhere.
"""

from __future__ import annotations

import statistics
from typing import Any

from report import ratios, table
from rounds import PREFILL, Model, engines, median
from sections import context_shares, thread_growths

from pellucid.tools import bench_report
from pellucid.tools.bench_report import unit

MODELS = ("smollm2", "gemma3", "perf-1b-q4_k_m", "perf-1b-q4_0", "perf-1b-q8_0")
LARGE = "perf-8b-q4_k_m"
PREFILL_KEY = f"prefill_{PREFILL}"
RATIOS = {  # to llama.cpp, in the order of MODELS
    "decode_1": (1.6, 1.4, 1.5, 1.15, 1.0),
    PREFILL_KEY: (4.5, 5.0, 3.5, 4.0, 4.0),
    "streams_32": (7.0, 6.0, 5.0, 5.0, 4.0),
}
NEED_AMX = (PREFILL_KEY, "streams_32")
START = {"smollm2": 0.5, "gemma3": 1.0, "perf-1b-q4_k_m": 1.0}  # seconds to the first token
MEAN_KL = {"smollm2": 0.001, "gemma3": 0.0015}
LEVEL = ("gemma3", "perf-1b-q4_k_m", "perf-1b-q4_0")  # with avx2 and avx512: at least as fast as llama.cpp
LEVEL_ISAS = ("avx2", "avx512")
READ_SHARE, CONTEXT_DECODE_SHARE, CONTEXT_PREFILL_SHARE, GROWTH = 0.85, 0.7, 0.6, 1.8
LARGE_MIB = 24 * 1024

NOT_MEASURED, NOT_HERE = "not measured", "not measurable here"


def text(result: dict[str, Any]) -> str:
    """Two Markdown tables: the goals that each model has, and the single ones."""
    return f"{table(by_model(result))}\n\n{table(single(result))}"


def by_model(result: dict[str, Any]) -> list[list[str]]:
    """Goals as rows, models as columns: what was found, of what is asked, and the verdict."""
    found = {model["name"]: model for model in result["models"]}
    has_amx = _has_amx(result)
    rows = [["goal", *(found[name]["title"] if name in found else name for name in MODELS)]]
    extra = sorted({name for model in found.values() for name in engines(model)} - {"pellucid", "llama.cpp"})
    for key, asked in RATIOS.items():
        for engine in ("pellucid", *extra):
            cells = [
                _ratio_goal(found.get(name), engine, key, goal, judged=has_amx or key not in NEED_AMX)
                for name, goal in zip(MODELS, asked, strict=True)
            ]
            with_what = "" if engine == "pellucid" else engine.replace("pellucid", ", with")
            rows.append([f"{bench_report.title(key)}, times llama.cpp{with_what}", *cells])
    rows.append(["process start to first token", *(_start_goal(found.get(name), START.get(name)) for name in MODELS)])
    rows.append(["peak memory, of 1.15 × file + KV + 90 MiB", *(_memory_goal(found.get(name)) for name in MODELS)])
    rows.append(["mean KL to float32", *(_quality_goal(found.get(name), MEAN_KL.get(name)) for name in MODELS)])
    return rows


def single(result: dict[str, Any]) -> list[list[str]]:
    """Goals of one model, or of the machine."""
    found = {model["name"]: model for model in result["models"]}
    large, model = found.get(LARGE), found.get("perf-1b-q4_k_m")
    rows = [["goal", "found", "verdict"]]
    share, rate = None, model and median(model, "pellucid", "decode_1")
    if model and rate:
        read, _ = bench_report.rates(model["program"], "decode_1", rate)
        share = read / bench_report.best_limits(result["limits"])["read_all"]
    rows.append(_at_least("1B Q4_K_M: decode at ≥ 85 % of the measured read bandwidth", share, READ_SHARE))
    rows.append(
        [
            "1B Q4_K_M: prefill at ≥ 55 % of the measured AMX bf16 rate",
            "",
            NOT_MEASURED if _has_amx(result) else NOT_HERE,
        ]
    )
    decode, prefill = context_shares(model, "pellucid") if model else (None, None)
    text = "1B Q4_K_M: decode at 8,192 tokens of context ≥ 70 % of the speed at 128"
    rows.append(_at_least(text, decode, CONTEXT_DECODE_SHARE))
    text = "1B Q4_K_M: prefill of 8,192 tokens ≥ 60 % of the rate at 512"
    rows.append(_at_least(text, prefill, CONTEXT_PREFILL_SHARE))
    growth = {one["title"]: thread_growths(one)["prefill"] for one in found.values() if "threads" in one}
    times = min((several / one for one, several in growth.values()), default=None)
    several = f"1 to {result['threads']}"
    rows.append(_at_least(f"prefill grows ≥ 1.8 times from {several} threads (the least of all models)", times, GROWTH))
    for isa in LEVEL_ISAS:
        rows.append(_level_goal(found, isa))
    rows.append(_large_goal(large))
    return rows


def _has_amx(result: dict[str, Any]) -> bool:
    return "amx_bf16" in result["machine"]["instruction_sets"]


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def _at_least(name: str, value: float | None, goal: float) -> list[str]:
    if value is None:
        return [name, "", NOT_MEASURED]
    return [name, f"{value:.2f}×" if goal > 1 else f"{value:.0%}", _verdict(value >= goal)]


def _ratio_goal(model: Model | None, engine: str, key: str, goal: float, *, judged: bool) -> str:
    found = ratios(model, engine, "llama.cpp", key) if model else []
    if not found:
        return NOT_MEASURED
    ratio = statistics.median(found)
    verdict = _verdict(ratio >= goal) if judged or ratio >= goal else "needs AMX"
    return f"{ratio:.2f} of {goal:g}: {verdict}"


def _start_goal(model: Model | None, goal: float | None) -> str:
    if goal is None:
        return ""
    value = model and median(model, "pellucid", "first_token")
    return NOT_MEASURED if not value else f"{value:.2f} of {goal:g} s: {_verdict(value <= goal)}"


def _memory_goal(model: Model | None) -> str:
    value = model and median(model, "pellucid", "peak_mib")
    if not model or not value:
        return NOT_MEASURED
    goal = bench_report.memory_goal(model["program"], model["file_nbytes"])
    return f"{value:,.0f} of {goal:,.0f} MiB: {_verdict(value <= goal)}"


def _quality_goal(model: Model | None, goal: float | None) -> str:
    if goal is None:
        return ""
    if model is None or "quality" not in model:
        return NOT_MEASURED
    value = model["quality"]["pellucid"]["mean_kl"]
    return f"{value:.2g} of {goal:g}: {_verdict(value <= goal)}"


def _level_goal(found: dict[str, Model], isa: str) -> list[str]:
    """llama.cpp is built for this machine, so only the machine's own instruction set can be compared."""
    name = f"{isa}: at least level with llama.cpp, decode and prefill, Q4_K_M and Q4_0"
    models = [found[name] for name in LEVEL if name in found and found[name]["rounds"]]
    if any(not model["program"]["isa"].startswith(isa) for model in models):
        return [name, "", NOT_HERE]
    told, lowest = [], []
    for model in models:
        for key, work in (("decode_1", "decode"), (PREFILL_KEY, "prefill")):
            if each := ratios(model, "pellucid", "llama.cpp", key):
                lowest.append(statistics.median(each))
                told.append(f"{model['title']} {work} {lowest[-1]:.2f}×")
    verdict = _verdict(min(lowest) >= 1) if len(lowest) == 2 * len(LEVEL) else NOT_MEASURED
    return [name, "; ".join(told), verdict]


def _large_goal(model: Model | None) -> list[str]:
    name = "8B shape, Q4_K_M: runs within 24 GiB, its load time stated"
    if model is None or not model["rounds"]:
        return [name, "", NOT_MEASURED]
    told = {key: median(model, "pellucid", key) for key in ("load", "first_token", "peak_mib", PREFILL_KEY, "decode_1")}
    values = [f"{bench_report.title(key)} {bench_report.number(v)} {unit(key)}" for key, v in told.items() if v]
    return [name, "; ".join(values), _verdict((told["peak_mib"] or LARGE_MIB) < LARGE_MIB)]

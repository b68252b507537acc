"""Many requests that share a system prompt: Pellucid's `LLM.generate` beside llama.cpp and vLLM, in one run.

    python benchmarks/compare_many.py --models smollm2 --requests 64 --llama-bin FOLDER --vllm-python PYTHON

The jobs are those of many_requests.py, at most 32 running. Every engine's figure is generated tokens a second, prompts
included in the time.

- Pellucid and vLLM (bfloat16 of the same weights; it reads no GGUF) get the very jobs.
- llama-batched-bench knows no such mix: it runs waves of 32 streams with a prompt and an answer of the jobs' mean
  lengths, less the shared part of the prompt, which it is spared altogether. No slot of it is ever idle and its
  contexts are shorter, so its figure is an upper bound of what it could do with the jobs.
- vLLM may get fewer jobs (--vllm-requests) where it would take hours; a rate of few jobs hides nothing of its speed
  as long as they fill its 32 places.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bench_models
import machine
import report
from many_requests import MAX_RUNNING, SHARED_TOKENS, Job, jobs

from pellucid.tools import timed_command
from pellucid.tools.bench import source_commit
from pellucid.tools.neighbours import Neighbours

MAX_MODEL_LEN = 1040  # the longest job: 256 + 512 + 256 tokens


def main() -> None:
    args = arguments()
    result: dict[str, Any] = {
        "date": machine.today(),
        "commit": source_commit(),
        "machine": machine.describe(),
        "threads": args.threads,
        "activations": args.activations,
        "requests": args.requests,
        "peers": {"llama.cpp": args.llama_version, "vllm": None},
        "models": [],
    }
    for name in args.models.split(","):
        model = bench_models.find(name, Path(), with_peer=False)
        rounds = []
        for number in range(args.rounds):
            with Neighbours() as others:
                measured = {"pellucid": pellucid(model.path, args)}
                if args.llama_bin is not None:
                    measured["llama.cpp"] = llama(model.path, args)
                if args.vllm_python is not None and number == 0:
                    measured["vllm"], result["peers"]["vllm"] = vllm(model.path, args)
            rounds.append({**measured, "others": others.share})
            print(f"{model.title}, round {number + 1}: {rounds[-1]}", flush=True)
        result["models"].append({"name": name, "title": model.title, "rounds": rounds})
    for model_result in result["models"]:
        print(table(model_result))
    kind = "many" + report.profile(args.activations)
    path = Path(__file__).with_name("results") / f"{result['date']}-{result['commit'].rstrip('+')}-{kind}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to benchmarks/results/{path.name}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="smollm2", help="of those benchmarks/run.py knows (llama architecture)")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    kinds = ("int16", "int8", "bfloat16")
    parser.add_argument("--activations", choices=kinds, default="int16", help="Pellucid's (default: int16)")
    parser.add_argument("--llama-bin", type=Path, help="folder with llama-batched-bench")
    parser.add_argument("--llama-version", help="what to call it")
    parser.add_argument("--vllm-python", type=Path, help="the Python of an environment with vLLM for CPU")
    parser.add_argument("--vllm-requests", type=int, help="fewer jobs for vLLM (default: all)")
    return parser.parse_args()


def pellucid(path: Path, args: argparse.Namespace) -> float:
    """Tokens a second of a fresh process, which is this file again."""
    command = [sys.executable, __file__, "--worker", path, str(args.requests), str(args.threads), args.activations]
    return float(json.loads(timed_command.run(command).stdout.splitlines()[-1]))


def worker(path: str, requests: int, threads: int, activations: str) -> None:
    from pellucid import LLM, SamplingParams

    def params(job: Job) -> SamplingParams:
        return SamplingParams(temperature=0, max_tokens=job.num_new, ignore_eos=True)

    with LLM(
        path, threads=threads, activations=activations, max_num_seqs=MAX_RUNNING, max_model_len=MAX_MODEL_LEN
    ) as llm:
        vocab_size = llm.tokenizer.vocab_size
        llm.generate([[5, 6, 7]], SamplingParams(temperature=0, max_tokens=2))  # wakes threads and pages
        work = jobs(requests, vocab_size)
        start = time.perf_counter()
        answers = llm.generate([job.prompt for job in work], [params(job) for job in work])
        seconds = time.perf_counter() - start
    assert [len(answer.token_ids) for answer in answers] == [job.num_new for job in work]
    print(sum(job.num_new for job in work) / seconds)


def llama(path: Path, args: argparse.Namespace) -> float:
    """Tokens a second of full waves of 32 streams with the jobs' mean lengths."""
    work = jobs(args.requests, 1000)
    prompt = round(statistics.mean(len(job.prompt) - SHARED_TOKENS for job in work))
    new = round(statistics.mean(job.num_new for job in work))
    context = MAX_RUNNING * (prompt + new)
    command = [args.llama_bin / "llama-batched-bench", "-m", path, "-t", str(args.threads), "-c", str(context)]
    command += ["-npp", str(prompt), "-ntg", str(new), "-npl", str(MAX_RUNNING), "--output-format", "jsonl"]
    for line in timed_command.run(command).stdout.splitlines():
        if line.startswith("{"):
            wave = json.loads(line)
            return MAX_RUNNING * new / float(wave["t_pp"] + wave["t_tg"])
    raise timed_command.CommandFailed("llama-batched-bench printed no result")


def vllm(path: Path, args: argparse.Namespace) -> tuple[float, str]:
    """Tokens a second, and the version."""
    here = Path(__file__).parent
    count = args.vllm_requests or args.requests
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, here / "make_bf16_folder.py", path, folder], check=True)
        command = [args.vllm_python, here / "vllm_worker.py", folder, str(count)]
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "4", "OMP_NUM_THREADS": str(args.threads)}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found = next(json.loads(line) for line in reversed(done.stdout.splitlines()) if line.startswith('{"seconds"'))
    return found["tokens"] / found["seconds"], found["version"]


def table(model: dict[str, Any]) -> str:
    """Medians over the rounds, and the ratio to the better peer."""
    engines = [name for name in ("pellucid", "llama.cpp", "vllm") if name in model["rounds"][0]]
    rates = {name: statistics.median(r[name] for r in model["rounds"] if name in r) for name in engines}
    lines = [f"\n{model['title']}: generated tokens a second, prompts included"]
    lines += [f"  {name:10} {rate:8.1f}" for name, rate in rates.items()]
    if peers := [rate for name, rate in rates.items() if name != "pellucid"]:
        lines.append(f"  ratio to the better peer: {rates['pellucid'] / max(peers):.2f}×")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        main()

"""Run the jobs of `many_requests.py` on vLLM, in vLLM's environment: prints seconds as JSON on the last line.

python vllm_worker.py FOLDER COUNT
"""

from __future__ import annotations

import json
import sys
import time

import vllm
from many_requests import MAX_RUNNING, jobs


def main() -> None:
    folder, count = sys.argv[1], int(sys.argv[2])
    llm = vllm.LLM(
        model=folder,
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_num_seqs=MAX_RUNNING,
        max_model_len=2048,
        enable_prefix_caching=True,
    )
    vocab_size = llm.llm_engine.model_config.get_vocab_size()
    work = jobs(count, vocab_size)

    def run(some: list) -> float:
        start = time.perf_counter()
        outputs = llm.generate(
            [{"prompt_token_ids": job.prompt} for job in some],
            [
                vllm.SamplingParams(temperature=0, max_tokens=job.num_new, ignore_eos=True, detokenize=False)
                for job in some
            ],
            use_tqdm=False,
        )
        seconds = time.perf_counter() - start
        assert [len(output.outputs[0].token_ids) for output in outputs] == [job.num_new for job in some]
        return seconds

    run(jobs(2, vocab_size, seed=1))  # warms compiled code and threads
    print(json.dumps({"seconds": run(work), "tokens": sum(job.num_new for job in work), "version": vllm.__version__}))


if __name__ == "__main__":
    main()

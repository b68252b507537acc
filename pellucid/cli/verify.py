"""`pellucid verify`: does this engine give the same answers, bit for bit, whatever else it is doing?"""

from __future__ import annotations

import argparse
from pathlib import Path

from pellucid.cli import options, terminal
from pellucid.errors import InvalidParameter, PellucidError

CONTEXT = 256
SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    text = "what `pellucid batch --receipts` or `pellucid run --json` wrote; without it, a workload of our own"
    parser.add_argument("--results", metavar="FILE", type=Path, help=text)
    text = "size of the workload (default: 60)"
    parser.add_argument("--requests", type=int, metavar="N", help=text)
    parser.add_argument("--sample", type=int, metavar="N", help="replay only N of the workload (default: all)")
    parser.add_argument("-s", "--seed", type=int, metavar="N", help="another workload (default: 0)")
    parser.set_defaults(chat_template=None)
    options.add_engine(parser)


def main(args: argparse.Namespace) -> None:
    """Replay requests cold, each answer alone in an engine that keeps nothing, and compare tokens and logprobs.

    With --results the requests are those of a file; logprobs are compared where they were recorded. Without, a
    workload is run hot first: shared prefixes, several answers a prompt, every sampler, a cache too small for what
    runs, arrivals and cancels at random. The exit code is 1 if anything differs or cannot be compared.
    """
    from pellucid.tools.verify import first_receipt, read_results, verify_results, verify_workload

    for name in ("requests", "sample", "seed"):
        if args.results is not None and getattr(args, name) is not None:
            raise InvalidParameter(name, f"--{name} belongs to a workload of our own, and --results was given")
        if getattr(args, name) is not None and getattr(args, name) < (name != "seed"):
            raise InvalidParameter(name, f"expected at least {int(name != 'seed')}, got {getattr(args, name)}")
    if args.results is not None:
        made_with = first_receipt(args.results)
        if not made_with:
            raise InvalidParameter("results", f"{str(args.results)!r} has no answers to compare")
        args.ctx_size = args.ctx_size or made_with.get("max_model_len")
        args.isa = args.isa or made_with.get("isa")
        if args.kv_cache_dtype == "auto" and args.executor == "cpu" == made_with.get("executor"):
            args.kv_cache_dtype = made_with.get("kv_cache_dtype", "auto")
        if args.activations == "auto" and args.executor == "cpu" == made_with.get("executor"):
            args.activations = made_with.get("activations", "auto")
        with options.load(args) as llm:
            report = verify_results(llm._model, read_results(args.results))
    else:
        args.ctx_size = args.ctx_size or CONTEXT
        with options.load(args, max_num_seqs=2) as llm:  # a cache of two contexts, for more that run
            report = verify_workload(llm._model, count=args.requests or 60, sample=args.sample, seed=args.seed or 0)
    for difference in report.differences[:SHOWN]:
        print(terminal.safe_line(difference))
    if report.left_out:
        print(f"left out, as this vocabulary cannot spell it: {', '.join(report.left_out)}")
    hot = (
        f" ({report.num_preemptions:,} preemptions, {report.num_cancelled:,} cancelled, {report.num_cached_tokens:,} "
        f"tokens from the cache, {report.num_right_drafts:,} drafts right, {report.num_wrong_drafts:,} wrong)"
        if args.results is None
        else ""
    )
    print(
        f"{report.num_requests:,} requests replayed{hot}: {report.num_answers:,} answers, "
        f"{report.num_tokens:,} tokens, {report.num_logprobs:,} logprobs; {len(report.differences):,} differences"
    )
    if report.differences:
        raise PellucidError(f"{len(report.differences)} differences")

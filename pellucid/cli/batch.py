"""`pellucid batch`: a file of requests answered to a file; go on after an interruption with the same command."""

from __future__ import annotations

import argparse
from pathlib import Path

from pellucid.cli import options, terminal
from pellucid.errors import PellucidError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", metavar="INPUT", type=Path, help="requests in OpenAI's batch format, one a line (JSON)"
    )
    text = "where the answers go, one line for each of INPUT's, in its order"
    parser.add_argument("output", metavar="OUTPUT", type=Path, help=text)
    text = "a .gguf file, a folder, a built-in name (smollm2), or a hub id (org/name, org/name:file.gguf)"
    parser.add_argument("-m", "--model", required=True, metavar="MODEL", help=text)
    text = "what the requests call the model, and the answers (default: the name given with -m, without its folder)"
    parser.add_argument("--served-model-name", metavar="NAME", help=text)
    text = "with each answer the token ids, log-probabilities and receipt that `pellucid verify` checks"
    parser.add_argument("--receipts", action="store_true", help=text)
    text = "what the seeds of requests without one are made from, beside their custom_id (default: %(default)s)"
    parser.add_argument("-s", "--seed", type=int, default=0, metavar="N", help=text)
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no summary on stderr")
    text = "Jinja template, or a file with one, in place of the model's"
    parser.add_argument("--chat-template", metavar="TEMPLATE", help=text)
    text = "most answers computed at the same time; it changes none of them (default: %(default)s)"
    parser.add_argument("--max-num-seqs", type=int, default=64, metavar="N", help=text)
    options.add_engine(parser)


def main(args: argparse.Namespace) -> None:
    """Answer a file of requests; killed or stopped, go on with the same command.

    OUTPUT appears when it is complete; until then what is done is in OUTPUT.part. The result is the same to the byte
    however often the run was interrupted. A request that cannot be served has an error for an answer, and the exit code
    is 1 then. docs/offline.md describes the files.
    """
    from pellucid.tools.batch import BatchRun, BatchSettings
    from pellucid.tools.batch_files import BatchInput, journal_path, read_header

    lines = BatchInput(args.input)
    begun = read_header(journal_path(args.output))
    if args.ctx_size is None and isinstance(begun.get("max_model_len"), int):
        args.ctx_size = begun["max_model_len"]  # the free memory may have changed since, and with it the default
    served = args.served_model_name or (Path(args.model).name if Path(args.model).exists() else args.model)
    settings = BatchSettings(tuple(dict.fromkeys((served, args.model))), seed=args.seed, receipts=args.receipts)
    with options.load(args, max_num_seqs=args.max_num_seqs) as llm:
        report = BatchRun(llm, lines, args.output, settings).run(progress=False if args.quiet else None)
    if not args.quiet:
        before = f", {report.num_before} of them before" if report.num_before else ""
        terminal.note(f"{report.num_lines} lines answered{before}: {args.output}")
    if report.num_errors:
        raise PellucidError(f"{report.num_errors} answers are errors; they are in {str(args.output)!r}")

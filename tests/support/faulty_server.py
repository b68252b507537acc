"""`pellucid serve` over the faulty engine: python faulty_server.py MODEL …, with a Policy's fields as options."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from support.engines import QUICK, SETTINGS
from support.faulty_engine import command, install_clock
from support.server import Server


class FaultyServer(Server):
    def __init__(self, model: Path, *arguments: str) -> None:
        super().__init__()
        self.arguments = [sys.executable, __file__, str(model), *arguments]


def main() -> None:
    from pellucid.server import logs
    from pellucid.server.banner import print_banner
    from pellucid.server.registry import ModelRegistry, ServedModel
    from pellucid.server.serve import serve
    from pellucid.server.settings import Limits, ServerSettings

    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--silent-after", type=float, default=QUICK.silent_after)
    parser.add_argument("--hung-after", type=float, default=QUICK.hung_after)
    parser.add_argument("--max-crashes", type=int, default=10_000)
    parser.add_argument("--crash-window", type=float, default=QUICK.crash_window)
    parser.add_argument("--drain-time", type=float, default=20.0)
    args = parser.parse_args()
    install_clock()
    logs.set_up("json")
    policy = replace(
        QUICK,
        silent_after=args.silent_after,
        hung_after=args.hung_after,
        max_crashes=args.max_crashes,
        crash_window=args.crash_window,
        restart_delay=0.01,
    )
    models = [ServedModel("tiny", {"model": args.model, **SETTINGS})]
    registry = ModelRegistry(models, policy=policy, command=command(), log_format="json")
    limits = Limits(header_time=1.0, body_time=1.0, write_time=1.0)
    try:
        registry.start()
        serve(registry, ServerSettings(port=0, drain_time=args.drain_time, limits=limits), print_banner)
    finally:
        registry.kill()


if __name__ == "__main__":
    main()

"""`make faults`: every kind of fault of a server, five times each, and the table of them in docs/operations.md.

    python benchmarks/faults.py [--within S]

Runs tests/server/test_faults.py, which says what is demanded of each. A machine that does other things meanwhile needs
more than three seconds: --within. Figures are written only if every kind has passed within three.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
from figures import put

from pellucid.tools.bench import save, source_commit

ROOT = Path(__file__).resolve().parents[1]
WITHIN = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--within", type=float, default=WITHIN, help="seconds in which the server must be ready again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "pytest", "-q", "--soak", "--within", str(args.within)]
        done = subprocess.run(
            [*command, "--figures", str(figures), "tests/server/test_faults.py"], cwd=ROOT, check=False
        )
        kinds: dict[str, Any] = json.loads(figures.read_text())
    print(table(kinds))
    if done.returncode != 0 or args.within > WITHIN:
        sys.exit(done.returncode)
    result = {"date": machine.today(), "commit": source_commit(), "machine": machine.describe(), "kinds": kinds}
    name = f"{result['date']}-{str(result['commit']).rstrip('+')}-faults.json"
    save(result, Path(__file__).with_name("results") / name)
    text = f"{about(kinds)}\n\n{table(kinds)}\n\nFrom `benchmarks/results/{name}`; `make faults` makes it anew."
    put(ROOT / "docs" / "operations.md", "faults", text)


def about(kinds: dict[str, Any]) -> str:
    least = min(kind["times"] for kind in kinds.values())
    worst = max(kind.get("unready", 0.0) for kind in kinds.values())
    return f"{len(kinds)} kinds, each at least {least} times; never longer than {worst:.1f} s without being ready."


def table(kinds: dict[str, Any]) -> str:
    """The longest times of each kind: in which /health/ready did not say ready, and until all processes had ended."""
    lines = ["| what happens | times | not ready for | ended after |", "|---|---|---|---|"]
    for name, kind in kinds.items():
        times = [f"{kind[key]:.2f} s" if key in kind else "" for key in ("unready", "ended")]
        lines.append(f"| {name.replace('_', ' ')} | {kind['times']} | {' | '.join(times)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

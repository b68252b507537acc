"""Does what examples/Dockerfile says without Docker: its `RUN pip` lines in clean environments, then its entry point.

Not tried that way: the base image, `apt-get` (a compiler must be there), users, volumes and ports of containers.
Takes some minutes: it compiles, and pip downloads every dependency.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "examples" / "Dockerfile").read_text("utf-8")
IGNORED = (ROOT / "examples" / "Dockerfile.dockerignore").read_text("utf-8").split("\n")[1:]


def run(command: str, environment: Path) -> None:
    print(f"$ {command}", flush=True)
    path = f"PATH={environment / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    subprocess.run(["env", path, "sh", "-ec", command], check=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        source, wheels = place / "src", place / "wheels"
        source.mkdir()
        tracked = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "x", "-C", source], input=tracked, check=True)
        for name in filter(None, IGNORED):
            for path in source.glob(name):
                subprocess.run(["rm", "-rf", path], check=True)
        for name in ("build", "final"):
            subprocess.run([sys.executable, "-m", "venv", place / name], check=True)
        for command in re.findall(r"^RUN (pip .*)$", TEXT, re.MULTILINE):
            command = command.partition(" && rm -r")[0].replace("/wheels", str(wheels)).replace("/src", str(source))
            run(command, place / ("build" if " wheel " in command else "final"))
        words = [*json.loads(found("ENTRYPOINT")), *json.loads(found("CMD"))]
        words = ["0" if word == "8000" else word for word in words]
        print(f"$ {shlex.join(words)}", flush=True)
        serve(place / "final" / "bin" / words[0], words[1:])


def found(instruction: str) -> str:
    [value] = re.findall(rf"^{instruction} (\[.*\])$", TEXT, re.MULTILINE)
    return value


def serve(program: Path, arguments: list[str]) -> None:
    """Start it, see that it becomes ready, and stop it as Docker does."""
    process = subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        banner = process.stdout.readline()
        print(banner, end="", flush=True)
        port = re.findall(r":(\d+)$", banner.strip())[0]
        begun = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready") as answer:
            print(f"/health/ready: {answer.status}, after {time.monotonic() - begun:.2f} s")
        process.terminate()
        print(f"SIGTERM: exit code {process.wait(30)}")
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()

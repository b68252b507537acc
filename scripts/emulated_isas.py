"""Runs tests of the kernels, or any program, on an emulated CPU: `make emulated-isas` (emulated_isas.sh has the tools).

The emulated machine gets a Linux kernel and, as its initial RAM disk, this interpreter with NumPy and pytest, the
package with its native module, and the tests, each where it lies here. Its serial port is this program's output.
About 50 million instructions a second, so a test takes some hundred times as long.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

from emulated_disk import REPOSITORY, ram_disk

FEATURES = {  # beside those of Skylake-X, to make this instruction set the best one
    "avx512": "",
    "avx512vnni": "avx512vnni",
    "amx": "avx512vnni avx512bf16 amx amx_int8 amx_bf16",
}
TESTS = [
    "tests/executors/test_instruction_sets.py",
    "tests/executors/test_op_table.py",
    "tests/executors/test_bfloat16_profile.py",
    "tests/test_invariance.py::test_types_of_kv_cache",
]
LONG = (  # here, and without telling much more about instructions
    "long_contexts",
    "(test_linear and (-1- or -15- or -16- or -17-))",
    "(types_of_kv_cache and not bfloat16)",
)
CHOSEN = f"(detected or {{isa}}) and not ({' or '.join(LONG)})"
BOCHSRC = """
display_library: nogui
megs: 1024
romimage: file={tools}/bios/bios.bin-1.13.0
vgaromimage: file={tools}/bios/vgabios-cirrus.bin-1.13.0
vga: extension=cirrus
pci: enabled=1, chipset=i440fx
cpu: model=corei7_skylake_x, add_features="{features}", ips=50000000, reset_on_triple_fault=0
clock: sync=none
ata0-master: type=cdrom, path={image}, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={serial}
log: {log}
panic: action=fatal
error: action=report
info: action=ignore
"""
# A panic ends in a triple fault, which ends the emulator.
KERNEL_OPTIONS = "console=ttyS0,115200 loglevel=4 panic=-1 reboot=t mitigations=off nokaslr random.trust_cpu=on"


def make_image(work: Path, tools: Path, disk: bytes) -> Path:
    """A CD that boots the kernel and the RAM disk."""
    folder = work / "cd"
    (folder / "isolinux").mkdir(parents=True, exist_ok=True)
    (folder / "kernel").write_bytes((tools / "kernel").read_bytes())
    (folder / "root").write_bytes(disk)
    for name in "/usr/lib/ISOLINUX/isolinux.bin", "/usr/lib/syslinux/modules/bios/ldlinux.c32":
        (folder / "isolinux" / Path(name).name).write_bytes(Path(name).read_bytes())
    (folder / "isolinux" / "isolinux.cfg").write_text(
        f"default linux\nprompt 0\nlabel linux\n kernel /kernel\n append initrd=/root {KERNEL_OPTIONS}\n"
    )
    image = work / "cd.iso"
    subprocess.run(
        f"xorrisofs -quiet -o {image.name} -b isolinux/isolinux.bin -c isolinux/boot.cat"
        " -no-emul-boot -boot-load-size 4 -boot-info-table cd".split(),
        cwd=work,
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return image


def boot(work: Path, tools: Path, image: Path, features: str, limit: float) -> int | None:
    """Runs the machine until it powers itself off; its output to ours. None: no verdict came within `limit` seconds."""
    serial = work / "serial.txt"
    serial.write_bytes(b"")
    settings = work / "bochsrc"
    settings.write_text(
        BOCHSRC.format(tools=tools, features=features, image=image, serial=serial, log=work / "bochs.log")
    )
    with (work / "bochs.out").open("wb") as out:
        emulator = subprocess.Popen(
            [tools / "bochs", "-q", "-f", settings], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=work
        )
    end = time.monotonic() + limit
    try:
        with serial.open(errors="replace") as lines:
            running = True
            while running and time.monotonic() < end:
                running = emulator.poll() is None
                print(lines.read().replace("\r", ""), end="", flush=True)
                time.sleep(0.2)
    finally:
        emulator.kill()
        emulator.wait()
    verdict = re.search(r"^VERDICT: (\d+)", serial.read_text(errors="replace"), re.MULTILINE)
    return int(verdict[1]) if verdict else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--isa", choices=FEATURES, action="append", help="the best instruction set (default: all in turn)"
    )
    parser.add_argument("--work", type=Path, default=REPOSITORY / "build" / "emulator", help="folder of machines")
    parser.add_argument("--tools", type=Path, help="folder with bochs, bios/ and kernel (default: that of --work)")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for one machine")
    parser.add_argument("--with", dest="extra", type=Path, action="append", default=[], help="a file to take along")
    parser.add_argument(
        "arguments",
        nargs="*",
        help="for its Python (-m MODULE … or FILE.py …), or a program and its own; files come along",
    )
    options = parser.parse_args()
    tools = (options.tools or options.work).resolve()
    failed = []
    for isa in options.isa or FEATURES:
        print(f"\n{isa}:", flush=True)
        work = options.work.resolve() / isa
        work.mkdir(parents=True, exist_ok=True)
        tests = ["-m", "pytest", "-p", "no:cacheprovider", *TESTS, "-k", CHOSEN]
        arguments = options.arguments or [t.format(isa=isa) for t in tests]
        files = [p.absolute() for p in (*options.extra, *(Path(a) for a in options.arguments if Path(a).is_file()))]
        image = make_image(work, tools, ram_disk(arguments, files))
        code = boot(work, tools, image, FEATURES[isa], options.limit)
        if code != 0:
            failed.append(f"{isa} ({'no verdict' if code is None else f'exit status {code}'})")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

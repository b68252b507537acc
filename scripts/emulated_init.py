"""The first process of the emulated machine (see emulated_isas.py): runs one command, says how it ended, powers off."""

import ctypes
import json
import os
import runpy
import sys
import traceback


def run(arguments: list[str]) -> None:
    """What `python ARGUMENTS…` would do, in this process: a second interpreter would take long to start here."""
    sys.path.insert(0, os.getcwd())
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0].endswith(".py"):
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        os.execv(arguments[0], arguments)


def child(arguments: list[str]) -> int:
    try:
        run(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


libc = ctypes.CDLL(None, use_errno=True)
for kind, where in ("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"):
    libc.mount(kind.encode(), where.encode(), kind.encode(), 0, None)
with open("/job.json") as file:
    job = json.load(file)
os.environ.clear()
os.environ.update(job["environment"])
os.chdir(job["folder"])
# A forked child, so that a crash of the command is seen and told here.
if (pid := os.fork()) == 0:
    code = child(job["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
while (ended := os.wait())[0] != pid:
    pass
status = os.waitstatus_to_exitcode(ended[1])
# As shells do: 128 and the number for a signal.
print(f"\nVERDICT: {status if status >= 0 else 128 - status}", flush=True)
os.sync()
libc.reboot(0x4321FEDC)  # LINUX_REBOOT_CMD_POWER_OFF

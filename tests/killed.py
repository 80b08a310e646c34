"""Run doit and die: ``python killed.py LOG ROOT OPERATION N arguments…`` kills itself with SIGKILL at the N-th operation.

OPERATION is rename, link, unlink, mkdir or sync, N counts those below ROOT; with N = 0 they are only counted. What
was done is in LOG, a line each, so that a test can tell which phase was hit.
"""

import os
import signal
import sys
import threading
from pathlib import Path

EVENTS = {
    "os.rename": "rename",
    "os.link": "link",
    "os.remove": "unlink",
    "os.mkdir": "mkdir",
    "os.symlink": "link",
}


def main() -> None:
    log, root, wanted, number = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    lines = open(log, "a", buffering=1)  # noqa: SIM115 - until the end
    seen, one_by_one = 0, threading.Lock()

    def strike(operation: str, path: str) -> None:
        nonlocal seen
        if operation != wanted or not path.startswith(root):
            return
        with one_by_one:
            seen += 1
            lines.write(f"{operation} {path.removeprefix(root)}\n")
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple) -> None:
        if event in EVENTS:
            target = arguments[1] if event in ("os.rename", "os.link", "os.symlink") else arguments[0]
            strike(EVENTS[event], os.fspath(target) if not isinstance(target, int) else "")

    from tasks import files

    synced, fsync = files.sync, os.fsync

    def sync(directory: Path) -> None:
        strike("sync", os.fspath(directory))
        synced(directory)

    def one(handle: int) -> None:
        strike("sync", os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    files.sync, os.fsync = sync, one
    sys.addaudithook(hook)
    from doit.doit_cmd import DoitMain

    sys.exit(DoitMain().run(sys.argv[5:]))


if __name__ == "__main__":
    main()

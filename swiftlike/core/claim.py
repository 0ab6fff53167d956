"""One process writes a folder at a time."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import IO

from swiftlike.core.errors import UserError

LOCK = ".lock"
_held: dict[Path, IO[str]] = {}


def claim(folder: Path, hint: str) -> None:
    """Be the only process that writes `folder`, until this process ends, however it does. UserError when another one
    is. Where files cannot be locked, nobody is kept out.

    The lock is POSIX's, which child processes do not inherit: what a killed run leaves behind does not hold it.
    """
    import fcntl

    path = (folder / LOCK).resolve()
    if path in _held:  # a second look would open the file again, and closing it lets the lock go
        return
    try:
        file = path.open("a+", encoding="utf-8")
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        who = file.read().strip() or "another process"
        file.close()
        raise UserError(f"{who} is writing {folder}", hint=hint) from None
    except OSError:
        return
    _held[path] = file
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()

"""Where things that can be made again are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from swiftlike.core.errors import UserError


def cache_folder(name: str) -> Path:
    """`$SWIFTLIKE_CACHE/name`, by default swiftlike/name in the user's cache folder. Made when absent.

    UserError when it cannot be made.
    """
    given = os.environ.get("SWIFTLIKE_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = (Path(given) if given else user / "swiftlike") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "set SWIFTLIKE_CACHE to a folder that you may write to"
        raise UserError(f"cannot make the cache folder {folder}: {error.strerror}", hint=hint) from None
    return folder

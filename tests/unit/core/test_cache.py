"""Where caches live."""

from pathlib import Path

import pytest

from swiftlike.core.cache import cache_folder
from swiftlike.core.errors import UserError


def test_the_folder_is_made_or_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFTLIKE_CACHE", str(tmp_path / "new"))
    assert cache_folder("a") == tmp_path / "new" / "a"
    assert (tmp_path / "new" / "a").is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SWIFTLIKE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot make the cache folder"):
        cache_folder("a")

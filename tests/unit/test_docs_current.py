"""docs/reference says what the cards say."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "make_docs.py"


def check(tool: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(tool), "--check"], capture_output=True, text=True, check=False)


def test_reference_pages_are_current() -> None:
    done = check(TOOL)
    assert done.returncode == 0, done.stderr


def test_stale_pages_are_named(tmp_path: Path) -> None:
    tool = tmp_path / "tools" / TOOL.name
    folder = tmp_path / "docs" / "reference"
    tool.parent.mkdir()
    tool.write_bytes(TOOL.read_bytes())
    subprocess.run([sys.executable, str(tool)], check=True)
    assert {page.name for page in folder.iterdir()} == {"flags.md", "losses.md", "models.md", "datasets.md"}
    assert check(tool).returncode == 0
    (folder / "losses.md").write_text("something else")
    (folder / "flags.md").unlink()
    done = check(tool)
    assert done.returncode == 1
    assert [line.partition(";")[0] for line in done.stderr.splitlines()] == [
        "stale: docs/reference/flags.md",
        "stale: docs/reference/losses.md",
    ]

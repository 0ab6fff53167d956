"""Are the installed packages known to be vulnerable? `make audit` runs pip-audit, which has an environment of its own.

Exit code 0: every package was looked up, and none is known to be. 1: some are. 2: not all could be looked up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

OWN = "swiftlike"  # is not published under this name


def verdict(found: Sequence[dict[str, Any]]) -> tuple[list[str], int]:
    """(what to say, exit code) of the dependencies in pip-audit's JSON report."""
    others = [one for one in found if one["name"] != OWN]
    unknown = [one["name"] for one in others if "skip_reason" in one]
    wrong = [(one, vulnerability) for one in others for vulnerability in one.get("vulns", ())]
    lines = []
    for one, vulnerability in wrong:
        mended = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        lines.append(f"{one['name']} {one['version']}: {vulnerability['id']}; mended in {mended}")
    if others and len(unknown) == len(others):
        lines.append("nothing was audited: the database of advisories has none of the packages; is there a network?")
    elif unknown:
        lines.append(f"could not be looked up: {', '.join(sorted(unknown))}")
    audited = len(others) - len(unknown)
    lines.append(f"{audited} of {len(others)} packages were looked up; {len(wrong)} known vulnerabilities")
    return lines, 1 if wrong else 2 if unknown or not others else 0


def main() -> int:
    """Look up what is installed in a folder of packages."""
    parser = argparse.ArgumentParser(description="Look up installed packages in the database of advisories.")
    parser.add_argument("packages", help="the site-packages folder to look at")
    words = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run([*words, "--path", parser.parse_args().packages], capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:  # no report: no connection, or pip-audit is not there
        last = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        sys.stderr.write(f"nothing was audited: {last}\n")
        return 2
    lines, code = verdict(report["dependencies"])
    sys.stdout.write("\n".join(lines) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

"""Flags are a promise: a new, changed or lost one must show in the diff of tests/golden/flags.json.

python tests/unit/test_flags_frozen.py --write
"""

import json
import sys
from pathlib import Path

from swiftlike.cli.commands import COMMANDS, load
from swiftlike.core.flags import Flags, word_for

GOLDEN = Path(__file__).parents[1] / "golden" / "flags.json"


def frozen() -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    """Command -> group (with its choice) -> flag -> type, default and other spellings."""
    found: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    for name in COMMANDS:
        for flag in (flag for homes in Flags(load(name)).by_name.values() for flag in homes):
            group = f"{flag.section}, when {flag.choice}" if flag.choice else flag.section
            facts = {"type": word_for(flag.kind), "default": flag.default, "aliases": list(flag.aliases)}
            found.setdefault(name, {}).setdefault(group, {})[flag.name] = facts
    return found


def test_flags_are_those_that_were_agreed() -> None:
    assert json.loads(json.dumps(frozen())) == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_commands_share_the_meaning_of_a_flag() -> None:
    kinds: dict[str, set[object]] = {}
    for groups in frozen().values():
        for flags in groups.values():
            for flag, facts in flags.items():
                kinds.setdefault(flag, set()).add(facts["type"])
    assert {flag: found for flag, found in kinds.items() if len(found) > 1} == {}


if __name__ == "__main__" and "--write" in sys.argv:
    GOLDEN.write_text(json.dumps(frozen(), indent=1) + "\n", encoding="utf-8")

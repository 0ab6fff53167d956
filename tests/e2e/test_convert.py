"""`swiftlike convert` as a user runs it: a chain through every format, its exit codes and messages."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from .conftest import Installed

ROWS = [
    {"query": f"Which one is a fruit, {n}?", "response": "pear", "rejected_response": "saw", "system": "Be brief."}
    for n in range(3)
]


def test_a_chain_of_formats_ends_in_training(swiftlike: Installed) -> None:
    work = swiftlike.folder
    (work / "0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    chain = ["swift_v2", "sharegpt", "trl", "chat_pair", "hh", "exo_preference", "exo_reward", "apo_comparison", "kto"]
    for number, (source, target) in enumerate(itertools.pairwise(chain)):
        done = swiftlike("convert", source, target, f"{number}.jsonl", "--output", f"{number + 1}.jsonl")
        assert (done.code, done.out) == (0, ""), done.err
        assert f"{number}.jsonl: read 3, wrote {6 if target == 'kto' else 3}" in done.err
        assert ("not carried over: system prompts (3 rows)" in done.err) == (target == "hh")
    records = [json.loads(line) for line in (work / f"{len(chain) - 1}.jsonl").read_text().splitlines()]
    expected = [
        {
            "messages": [{"role": "user", "content": row["query"]}, {"role": "assistant", "content": row[column]}],
            "label": label,
        }
        for row in ROWS
        for column, label in (("response", True), ("rejected_response", False))
    ]
    assert records == expected
    assert swiftlike("check", "8.jsonl", "--rlhf_type", "kto").code == 0
    assert swiftlike.reached == ""


def test_exit_codes_and_messages(swiftlike: Installed) -> None:
    (swiftlike.folder / "a.jsonl").write_text(json.dumps({"prompt": "q", "chosen": "a"}) + "\n{\n")
    refused = swiftlike("convert", "exo_sft", "exo_reward", "a.jsonl")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("swiftlike: exo_sft cannot become exo_reward: it has single answers")
    assert "exo_sft can become apo_golden, exo_sft, swift_v2" in refused.err
    nothing = swiftlike("convert", "auto", "exo_reward", "a.jsonl")
    assert (nothing.code, "nothing was written" in nothing.err) == (1, True)
    stopped = swiftlike("convert", "auto", "sft", "a.jsonl", "--on_bad_row", "error")
    assert (stopped.code, "a.jsonl:2: not JSON" in stopped.err) == (2, True)
    assert [path.name for path in swiftlike.folder.iterdir()] == ["a.jsonl"]
    assert swiftlike("convert", "auto", "sft", "a.jsonl").code == 0
    again = swiftlike("convert", "auto", "sft", "a.jsonl")
    assert (again.code, "--overwrite" in again.err) == (2, True)
    assert swiftlike("convert", "auto", "sft", "a.jsonl", "--overwrite").code == 0
    assert (Path(swiftlike.folder) / "a_sft.jsonl").read_text() == '{"query": "q", "response": "a"}\n'


def test_formats_are_listed(swiftlike: Installed) -> None:
    listed = json.loads(swiftlike("list", "formats", "--json").out)
    found = {entry["name"]: entry for entry in listed}
    assert found["exo_sft"]["becomes"] == ["apo_golden", "exo_sft", "swift_v2", "swift_v4", "trl", "sharegpt", "sft"]
    assert not found["tldr"]["written"]
    named = {line.split()[0] for line in swiftlike("list", "formats").out.splitlines()}
    assert named == set(found)
    usage = swiftlike("convert", "--help").out
    assert all(name in usage for name in named)

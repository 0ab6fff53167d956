"""From a file of pairs to groups that are ready to train on: time of the first and of the second start, and memory.

    python benchmarks/data_path.py [--rows 100000] [--peer] [--folder DIR] [--out results.json]

Random text pairs are written to a file. `swiftlike rlhf --dry_run` is then started twice on a cache that is empty at
first. With `--peer`, the same rows go the way that TRL's DPOTrainer takes them: datasets.load_dataset, the chat
template, tokenising prompt and both answers with datasets.map over all cores, twice too. Memory is summed over the
process and its children, as often as can be looked: `private` is what they have for themselves (RssAnon), `resident`
includes mapped files, which the system takes back when it needs room, and which are counted once for each process.
"""

import argparse
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

WORDS = ("the", "sea", "is", "quiet", "and", "an", "old", "mill", "stands", "by", "the", "road", "to", "town", "again")


def write_rows(path: Path, count: int) -> None:
    """UltraFeedback-like lengths: about 70 words of prompt and 80 of each answer."""
    chance = random.Random(0)

    def text(most: int) -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(10, most)))

    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row = {"prompt": f"{text(120)} {number}", "chosen": text(150), "rejected": text(150)}
            file.write(json.dumps(row) + "\n")


class Watch(threading.Thread):
    """Peak memory of a process and all below it, in bytes."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.parent = pid, {"private": 0, "resident": 0}, {"private": 0, "resident": 0}
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.2):
            found = {pid: memory(pid) for pid in family(self.pid)}
            for name in self.peak:
                self.peak[name] = max(self.peak[name], sum(one[name] for one in found.values()))
                self.parent[name] = max(self.parent[name], found.get(self.pid, {}).get(name, 0))


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [pid, *(one for child in below for one in family(int(child)))]


def memory(pid: int) -> dict[str, int]:
    """Of one process now; nothing when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return {"private": 0, "resident": 0}
    fields = dict(line.split(":", 1) for line in lines)
    names = {"private": "RssAnon", "resident": "VmRSS"}
    return {name: int(fields.get(field, "0 kB").split()[0]) << 10 for name, field in names.items()}


def measured(words: list[str], env: dict[str, str]) -> dict[str, object]:
    """Seconds and peak memory of one command, and the end of what it said."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([sys.executable, *words], env=os.environ | env, stdout=said, stderr=said)
        watch = Watch(process.pid)
        watch.start()
        code = process.wait()
        watch.done.set()
        watch.join()
        seconds = time.perf_counter() - began
        said.seek(0)
        lines = said.read().splitlines()
    if code:
        sys.exit("\n".join(lines[-20:]))
    size = {f"{name} MB": value >> 20 for name, value in watch.peak.items()}
    parent = {f"{name} MB of the parent": value >> 20 for name, value in watch.parent.items()}
    return {
        "seconds": round(seconds, 1),
        **size,
        **parent,
        "said": [re.sub(r"\S*/", "", line) for line in lines if "rows" in line or "cache" in line],  # no folders
    }


PEER = """
import os, sys
from datasets import load_dataset
from transformers import AutoTokenizer
path, model = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model)
template = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\\n{{ m.content }}<|im_end|>\\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}"
)
def tokenised(row):
    asked = [{"role": "user", "content": row["prompt"]}]
    prompt = tokenizer.apply_chat_template(asked, chat_template=template, tokenize=False, add_generation_prompt=True)
    out = {"prompt_input_ids": tokenizer(prompt, add_special_tokens=False)["input_ids"]}
    for name in ("chosen", "rejected"):
        out[name + "_input_ids"] = tokenizer(row[name] + "<|im_end|>", add_special_tokens=False)["input_ids"]
    return out
rows = load_dataset("json", data_files=path, split="train")
rows = rows.map(tokenised, num_proc=len(os.sched_getaffinity(0)), remove_columns=rows.column_names)
print("rows", len(rows), "tokens of the first", len(rows[0]["prompt_input_ids"]))
"""


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--rows", type=int, default=100_000)
    asked.add_argument("--peer", action="store_true", help="datasets.map as TRL uses it, on the same rows")
    asked.add_argument("--folder", type=Path, help="where rows and caches are written; none: a temporary folder")
    asked.add_argument("--model_type", default="tiny-llama")
    asked.add_argument("--out", type=Path)
    args = asked.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as made:
        folder = Path(made)
        path, env = folder / "pairs.jsonl", {"SWIFTLIKE_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf")}
        write_rows(path, args.rows)
        ours = ["-m", "swiftlike", "rlhf", "--rlhf_type", "dpo", "--model_type", args.model_type]
        ours += ["--dataset", str(path), "--on_bad_row", "drop", "--dry_run"]
        results: dict[str, object] = {
            "rows": args.rows,
            "file MB": path.stat().st_size >> 20,
            "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
            "load before": os.getloadavg(),
            "start without rows": measured([*ours[:-4], str(few(path)), *ours[-3:]], env),
        }
        for name in ("first", "second"):
            results[name] = measured(ours, env)
            print(name, json.dumps(results[name]), flush=True)
        for name in ("peer first", "peer second") if args.peer else ():
            model = next((folder / "cache" / "models").glob(f"{args.model_type}-*"))
            results[name] = measured(["-c", PEER, str(path), str(model)], env)
            print(name, json.dumps(results[name]), flush=True)
        results["load after"] = os.getloadavg()
    text = json.dumps(results, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def few(path: Path) -> Path:
    """The first rows alone, to know what a start costs without preparing."""
    short = path.with_name("few.jsonl")
    with path.open(encoding="utf-8") as file:
        short.write_text("".join(line for _, line in zip(range(50), file, strict=False)), encoding="utf-8")
    return short


if __name__ == "__main__":
    main()

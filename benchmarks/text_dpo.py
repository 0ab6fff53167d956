"""Text LoRA DPO, swiftlike against TRL 1.16: the same model, rows, adapter, batches and machine, in turns.

python benchmarks/text_dpo.py [--trl_python PATH] [--threads 2 1] [--checkpointing on off] [--tiny]

Before any timing both sides must agree on the rows' token counts and, to 1e-4, on the log-probabilities at step 0, and
on log-probabilities, loss and every gradient norm of an adapter that is not zero; else the run is aborted. Each side is
a process of its own that trains through its real user path (`swiftlike rlhf ...`; DPOTrainer), stops after each window
of steps, and goes on when its turn comes again, so that the sides share whatever else the machine is doing.

Real tokens are those of prompt + chosen and prompt + rejected, whatever a side computes or pads. TRL's environment is
made when absent. Results: a table, and benchmarks/results/text_dpo.json with the machine's description.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from text_dpo_side import versions

TRL = "1.16.0"
TOLERANCE = 1e-4  # relative, or absolute below 1
SIDES = ("swiftlike live", "swiftlike cache", "trl", "trl precomputed")
PAIRS = {  # what is compared, and what it means
    "defaults": ("swiftlike cache", "trl", "each tool's default; swiftlike's store is warm: second epoch, later run"),
    "live": ("swiftlike live", "trl", "the reference computed in every step: swiftlike's first epoch, TRL always"),
    "known": ("swiftlike cache", "trl precomputed", "the reference's numbers known to both beforehand"),
}
NOTES = (
    "  tokens/s: real tokens of prompt + chosen and prompt + rejected, whatever a side computes or pads",
    "  over loaded: peak memory of the process minus what it held when the model was loaded",
    f"  TRL {TRL} scores every position with the head where there is no Triton (CPUs), completions only on GPUs",
)
END, PAD, UNKNOWN, USER, ASSISTANT = "<|end|>", "<|pad|>", "<|unk|>", "<|user|>", "<|assistant|>"
CHAT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|> ' + message['content'] + ' ' }}"
    "{% if message['role'] == 'assistant' %}{{ '" + END + "' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + " ' }}{% endif %}"
)
MIB = 2**20


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line. `--tiny` makes everything small: it tests the script, not the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--trl_python", help=f"python with trl {TRL}; default: an environment is made in the cache folder")
    add("--output", type=Path, default=Path(__file__).parent / "results" / "text_dpo.json")
    add("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    add("--threads", type=int, nargs="+", default=[2, 1])
    add("--checkpointing", nargs="+", choices=("on", "off"), default=["on", "off"], help="on is both tools' default")
    add("--batch_size", type=int, default=4, help="pairs in a forward pass")
    add("--accumulation", type=int, default=1, help="forward passes in a step")
    add("--rows", type=int, default=64)
    add("--warmup", type=int, default=1, help="steps before the first window")
    add("--windows", type=int, default=7)
    add("--steps", type=int, default=1, help="steps in a window")
    add("--prompt", type=int, default=512, help="tokens, give or take a sixteenth")
    add("--completion", type=int, default=64, help="tokens, give or take an eighth")
    add("--hidden", type=int, default=384)
    add("--intermediate", type=int, default=1152)
    add("--layers", type=int, default=10)
    add("--heads", type=int, nargs=2, default=(6, 2), help="of queries, of keys and values")
    add("--vocabulary", type=int, default=32_000)
    add("--learning_rate", type=float, default=1e-4)
    add("--seed", type=int, default=0)
    add("--tiny", action="store_true")
    options = parser.parse_args(words)
    if options.tiny:
        size = {"hidden": 64, "intermediate": 128, "layers": 2, "heads": (4, 2), "vocabulary": 512}
        work = {"rows": 8, "batch_size": 2, "warmup": 1, "windows": 2, "steps": 1, "prompt": 32, "completion": 8}
        vars(options).update({**size, **work, "threads": [1]})
    return options


# -- what both sides train on ------------------------------------------------------------------------------------------


def make_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Pairs of random words, one token each, as message lists that both tools read. Lengths are ragged."""
    draw = random.Random(options.seed)

    def text(length: int, part: int) -> str:
        length += draw.randint(-(length // part), length // part)
        return " ".join(f"w{draw.randrange(options.vocabulary - 5)}" for _ in range(length))

    def turn(role: str, content: str) -> list[dict[str, str]]:
        return [{"role": role, "content": content}]

    return [
        {
            "prompt": turn("user", text(options.prompt, 16)),
            "chosen": turn("assistant", text(options.completion, 8)),
            "rejected": turn("assistant", text(options.completion, 8)),
        }
        for _ in range(options.rows)
    ]


def make_model(options: argparse.Namespace, folder: Path) -> int:
    """A Llama of random weights with tied embeddings and a tokenizer of one token a word. Gives its parameters.

    Weights are drawn at 1 / sqrt(inputs), at which signals keep their size, so that context moves the logits.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(options.seed)
    special = (UNKNOWN, PAD, END, USER, ASSISTANT)
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.intermediate,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads[0],
        num_key_value_heads=options.heads[1],
        tie_word_embeddings=True,
        initializer_range=options.hidden**-0.5,
        pad_token_id=special.index(PAD),
        eos_token_id=special.index(END),
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    words = [*special, *(f"w{i}" for i in range(options.vocabulary - len(special)))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, unk_token=UNKNOWN, model_max_length=4096
    )
    fast.add_special_tokens({"additional_special_tokens": [USER, ASSISTANT]})
    fast.chat_template = CHAT
    fast.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


# -- numbers that both sides must agree on -----------------------------------------------------------------------------


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Every place at which two nested results are further apart than TOLERANCE."""
    if isinstance(ours, dict):
        if ours.keys() != theirs.keys():
            return [f"{where}: {sorted(ours.keys() ^ theirs.keys())} on one side only"]
        pairs = [(name, ours[name], theirs[name]) for name in ours]
    elif isinstance(ours, list):
        if len(ours) != len(theirs):
            return [f"{where}: {len(ours)} against {len(theirs)}"]
        pairs = [(str(i), *both) for i, both in enumerate(zip(ours, theirs, strict=True))]
    else:
        apart = not abs(ours - theirs) <= TOLERANCE * max(1.0, abs(theirs))  # NaN is apart from everything
        return [f"{where}: {ours} against {theirs}"] if apart else []
    return [line for name, one, other in pairs for line in differences(one, other, f"{where}/{name}")]


# -- the driver --------------------------------------------------------------------------------------------------------


class Side:
    """A running worker, whose program is `script` beside this one."""

    script = "text_dpo_side.py"

    def __init__(self, side: str, python: str, options: argparse.Namespace, mode: str, threads: int) -> None:
        folder = Path(options.folder)
        self.name = side
        self.log = folder / f"{side.replace(' ', '_')}_{mode}_{threads}.log"
        script = Path(__file__).resolve().with_name(self.script)
        words = [python, str(script), side, str(folder / "setting.json"), mode]
        env = {
            **os.environ,
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)),
            "SWIFTLIKE_CACHE": str(folder / "cache"),
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "CUDA_VISIBLE_DEVICES": "",
        }
        self.started = time.perf_counter()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log.open("w")}
        self.process = subprocess.Popen(words, env=env, cwd=folder, text=True, **pipes)

    def receive(self) -> dict[str, Any]:
        """The next message; the worker's log when there is none."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended early:\n{self.log.read_text()[-4000:]}")
        return json.loads(line)

    def window(self, steps: int) -> dict[str, Any]:
        """Let it train; what it measured."""
        self.send(steps)
        found = self.receive()
        if found["misses"]:
            sys.exit(f"{self.name}: the store did not know {found['misses']} rows, so it was not warm")
        return found

    def send(self, steps: int) -> None:
        """Steps to do; 0 ends training."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Wait for a clean end."""
        self.process.communicate()
        if self.process.returncode:
            sys.exit(f"{self.name} failed:\n{self.log.read_text()[-4000:]}")


def trl_environment() -> str:
    """An environment with TRL and the versions of everything else that this one has. Made once, in the cache folder."""
    from swiftlike.core.cache import cache_folder

    folder = cache_folder("benchmarks") / f"trl-{TRL}"
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        same = [f"{name}=={version.partition('+')[0]}" for name, version in versions().items() if name != "trl"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"trl=={TRL}", *same], check=True)
        (folder / "ready").touch()
    return str(python)


def check(options: argparse.Namespace, pythons: dict[str, str]) -> list[list[int]]:
    """Compare the two tools before anything is timed. Gives each row's tokens: prompt, chosen, rejected."""
    found = {}
    for tool, side in (("swiftlike", "swiftlike cache"), ("trl", "trl")):
        if tool in pythons:
            process = Side(side, pythons[tool], options, "check", max(options.threads))
            found[tool] = process.receive()
            process.end()
    if len(found) == 2:
        wrong = differences(found["swiftlike"], found["trl"])
        if wrong:
            sys.exit("the two sides do not compute the same, so nothing is timed:\n  " + "\n  ".join(wrong[:20]))
        print(f"same tokens, log-probabilities, loss and gradients to {TOLERANCE:g} (loss {found['trl']['loss']:.6f})")
    return next(iter(found.values()))["lengths"]


def measure(options: argparse.Namespace, pythons: dict[str, str], mode: str, threads: int) -> dict[str, Any]:
    """All sides at one setting, window by window in turns."""
    sides, results = [], {}
    for name in options.sides:  # one after another: what one does to start shall not disturb another
        side = Side(name, pythons[name.split()[0]], options, mode, threads)
        ready = side.receive()
        results[name] = {**ready, "startup_s": round(time.perf_counter() - side.started, 1), "windows": []}
        sides.append(side)
    for count in [options.warmup, *[options.steps] * options.windows]:
        for side in sides:
            results[side.name]["windows"].append(side.window(count))
    for side in sides:
        side.send(0)
        side.end()
    return {name: summary(result, options) for name, result in results.items()}


def summary(result: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Speeds and memory of one side at one setting; the warm-up window is left out."""
    rows = options.batch_size * options.accumulation
    timed = result["windows"][1:]
    per_second = [rows * len(one["steps"]) / sum(one["steps"]) for one in timed]
    highest = timed[-1]["peak"]
    return {
        "rows_per_s": round(statistics.median(per_second), 4),
        "tokens_per_s": round(statistics.median(per_second) * options.row_tokens, 1),
        "cpu_s_per_row": round(statistics.median(one["cpu"] / rows / len(one["steps"]) for one in timed), 4),
        "peak_mib": round(highest / MIB, 1),
        "peak_over_loaded_mib": round((highest - result["after_load"]) / MIB, 1),
        "startup_s": result["startup_s"],
        "windows_rows_per_s": [round(value, 4) for value in per_second],
        "windows_cpu_s_per_row": [round(one["cpu"] / rows / len(one["steps"]), 4) for one in timed],
        "step_s": [round(step, 4) for one in timed for step in one["steps"]],
        "versions": result["versions"],
    }


def compare(sides: dict[str, Any]) -> dict[str, Any]:
    """Ratios of the pairs, window by window: speeds swiftlike over TRL, memory the same way round."""
    out = {}
    for name, (ours, theirs, meaning) in PAIRS.items():
        if ours not in sides or theirs not in sides:
            continue
        one, other = sides[ours], sides[theirs]
        out[name] = {
            "what": f"{ours} / {theirs}: {meaning}",
            "rows_per_s": spread(one["windows_rows_per_s"], other["windows_rows_per_s"]),
            "cpu_efficiency": spread(other["windows_cpu_s_per_row"], one["windows_cpu_s_per_row"]),
            "peak": round(one["peak_mib"] / other["peak_mib"], 3),
            "peak_over_loaded": round(one["peak_over_loaded_mib"] / other["peak_over_loaded_mib"], 3),
        }
    return out


def spread(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Least, median and greatest of the ratios of windows that ran one after the other."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return {"min": round(ratios[0], 3), "median": round(statistics.median(ratios), 3), "max": round(ratios[-1], 3)}


def machine() -> dict[str, Any]:
    """What the numbers belong to."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        return {
            "cpu": names[0] if names else platform.processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(memory, 1),
            "system": platform.platform(),
            "python": platform.python_version(),
        }
    return {"system": platform.platform()}


def load() -> list[float]:
    """How busy the machine is: processes that want to run, over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def table(settings: list[dict[str, Any]]) -> str:
    """What a reader looks at."""
    lines = []
    for setting in settings:
        lines.append(f"\n{setting['threads']} threads, gradient checkpointing {setting['checkpointing']}")
        lines.append(f"  {'':<18}{'rows/s':>9}{'tokens/s':>10}{'CPU s/row':>11}{'peak MiB':>10}{'over loaded':>13}")
        for name, side in setting["sides"].items():
            lines.append(
                f"  {name:<18}{side['rows_per_s']:>9.3f}{side['tokens_per_s']:>10.0f}{side['cpu_s_per_row']:>11.2f}"
                f"{side['peak_mib']:>10.0f}{side['peak_over_loaded_mib']:>13.0f}"
            )
        for name, pair in setting["ratios"].items():
            low, middle, high = pair["rows_per_s"].values()
            lines.append(
                f"  {name:<10}{middle:.2f}x rows/s ({low:.2f} to {high:.2f}), {pair['cpu_efficiency']['median']:.2f}x "
                f"per CPU second, {pair['peak']:.2f}x peak memory ({pair['peak_over_loaded']:.2f}x over loaded)"
            )
    return "\n".join(lines)


def meanings() -> str:
    """What the names of the pairs mean."""
    lines = [f"  {name}: {ours} / {theirs}: {meaning}" for name, (ours, theirs, meaning) in PAIRS.items()]
    return "\n".join([*lines, *NOTES])


def environments(options: argparse.Namespace) -> dict[str, str]:
    """The python of each tool that takes part."""
    tools = {side.split()[0] for side in options.sides}
    pythons = {"swiftlike": sys.executable, "trl": ""}
    if "trl" in tools:
        pythons["trl"] = options.trl_python or trl_environment()
    return {tool: pythons[tool] for tool in sorted(tools)}


def run(options: argparse.Namespace, folder: str) -> Iterator[dict[str, Any]]:
    """Make what is trained on, check, measure. Gives the results so far after each setting."""
    pythons, described = environments(options), vars(options) | {"output": None, "trl_python": None}
    options.folder, options.model, options.data = folder, f"{folder}/model", f"{folder}/pairs.jsonl"
    parameters = make_model(options, Path(options.model))
    text = "".join(json.dumps(row) + "\n" for row in make_rows(options))
    Path(options.data).write_text(text, encoding="utf-8")
    Path(folder, "setting.json").write_text(json.dumps(vars(options) | {"output": None}), encoding="utf-8")
    lengths = check(options, pythons)
    options.row_tokens = statistics.mean(2 * prompt + chosen + rejected for prompt, chosen, rejected in lengths)
    result = {
        "machine": machine(),
        "model": {"parameters": parameters, "mean_tokens_of_a_pair": options.row_tokens},
        "options": {name: value for name, value in described.items() if value is not None},
        "settings": [],
    }
    for threads in options.threads:
        for mode in options.checkpointing:
            found = {"threads": threads, "checkpointing": mode, "load_average_before": load()}
            found["sides"] = measure(options, pythons, mode, threads)
            result["settings"].append(found | {"load_average_after": load(), "ratios": compare(found["sides"])})
            yield result


def main(words: list[str] | None = None) -> int:
    """Run and write the results."""
    options = arguments(words)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="text_dpo_") as folder:
        for result in run(options, folder):
            options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            text = table(result["settings"]) + "\n\n" + meanings() + "\n"
            options.output.with_suffix(".txt").write_text(text, encoding="utf-8")
            print(table(result["settings"][-1:]), flush=True)
    print(f"\n{meanings()}\n\nwritten to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

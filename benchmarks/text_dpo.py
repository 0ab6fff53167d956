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
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

TRL = "1.16.0"
TOLERANCE = 1e-4  # relative, or absolute below 1
SIDES = ("swiftlike live", "swiftlike cache", "trl", "trl precomputed")
PAIRS = {  # what is compared, and what it means
    "defaults": ("swiftlike cache", "trl", "each tool's default; swiftlike's store is warm: second epoch, later run"),
    "live": ("swiftlike live", "trl", "the reference computed in every step: swiftlike's first epoch, TRL always"),
    "known": ("swiftlike cache", "trl precomputed", "the reference's numbers known to both beforehand"),
}
END, PAD, UNKNOWN, USER, ASSISTANT = "<|end|>", "<|pad|>", "<|unk|>", "<|user|>", "<|assistant|>"
CHAT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|> ' + message['content'] + ' ' }}"
    "{% if message['role'] == 'assistant' %}{{ '" + END + "' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + " ' }}{% endif %}"
)
PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "trl")
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
    add("--warmup", type=int, default=2, help="steps before the first window")
    add("--windows", type=int, default=5)
    add("--steps", type=int, default=2, help="steps in a window")
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
    add("--worker", nargs=3, help=argparse.SUPPRESS)
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


# -- one side, in a process of its own ---------------------------------------------------------------------------------


class Channel:
    """The pipe to the driver: one JSON object a line. What libraries print goes to the log instead."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def send(self, **message: Any) -> None:
        """Tell the driver."""
        print(json.dumps(message), file=self.out)

    def wait(self) -> int:
        """Steps of the next window; 0 to stop."""
        return int(sys.stdin.readline() or 0)


def worker(side: str, setting: Path, mode: str) -> None:
    """Run one side. `mode` is "check" (agree on numbers, fill swiftlike's store) or "on"/"off": time steps."""
    options = argparse.Namespace(**json.loads(setting.read_text()))
    channel = Channel()
    with contextlib.suppress(SystemExit):
        (swiftlike_side if side.startswith("swiftlike") else trl_side)(side, options, mode, channel)


def swiftlike_side(side: str, options: argparse.Namespace, mode: str, channel: Channel) -> None:
    """The command that a user types, with a callback added to the trainer that it builds."""
    from swiftlike.cli.main import main
    from swiftlike.pipelines import train

    build, policy, loaded = train.build, train.policy, []

    def watched_policy(*args: Any) -> Any:
        loaded.append((policy(*args), resident()))
        return loaded[0][0]

    def watched_build(*args: Any) -> Any:
        trainer = build(*args)
        if mode == "check":
            channel.send(**swiftlike_numbers(trainer))
            sys.exit(0)
        trainer.add_callback(windows(channel, loaded[0][1], lambda: getattr(trainer.reference, "misses", 0)))
        return trainer

    train.policy, train.build = watched_policy, watched_build
    flags = common(options, mode) | {
        "model": options.model,
        "template": "chat_template",
        "dataset": options.data,
        "dataset_test_ratio": 0,
        "dataset_shuffle": "false",
        "batch_size": options.batch_size,
        "rlhf_type": "dpo",
        "rpo_alpha": "none",
        "torch_dtype": "float32",
        "lora_rank": 8,
        "lora_alpha": 32,
        "ref_logps": "live" if side == "swiftlike live" else "cache",
        "gradient_checkpointing": "false" if mode == "off" else "true",
    }
    main(["rlhf", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))])


def trl_side(side: str, options: argparse.Namespace, mode: str, channel: Channel) -> None:
    """DPOTrainer as its documentation shows it, on a CPU in float32."""
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    after_load = resident()
    trainer = DPOTrainer(
        model,
        args=DPOConfig(
            **common(options, mode) | {"report_to": "none"},
            per_device_train_batch_size=options.batch_size,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=mode != "off",
            precompute_ref_log_probs=side == "trl precomputed" and mode != "check",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=load_dataset("json", data_files=options.data, split="train"),
        processing_class=AutoTokenizer.from_pretrained(options.model),
        peft_config=LoraConfig(
            r=8, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj"], task_type="CAUSAL_LM"
        ),
    )
    if mode == "check":
        channel.send(**trl_numbers(trainer))
        return
    trainer.add_callback(windows(channel, after_load))
    trainer.train()


def common(options: argparse.Namespace, mode: str) -> dict[str, Any]:
    """What both tools call by the same name. The optimiser's numbers are swiftlike's defaults, said aloud to both."""
    steps = options.warmup + options.windows * options.steps
    return {
        "output_dir": f"{options.folder}/output",
        "max_steps": steps + 1,  # training ends when the driver says so
        "gradient_accumulation_steps": options.accumulation,
        "max_length": 1024,
        "optim": "adamw_torch",
        "learning_rate": options.learning_rate,
        "adam_beta2": 0.95,
        "weight_decay": 0.1,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 10,
        "seed": 42,
    }


def windows(channel: Channel, after_load: int, misses: Callable[[], int] = lambda: 0) -> Any:
    """A TrainerCallback that trains window by window. Everything between two step ends counts: loading rows, logs.

    `misses` counts the rows that a store of reference numbers did not know: it shall stay 0 where it is called warm.
    """
    from transformers import TrainerCallback

    class Windows(TrainerCallback):
        left, walls, began = 0, [], (0.0, 0.0)

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            channel.send(ready=True, after_load=after_load, versions=versions())
            self.next(control)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.walls.append(time.perf_counter())
            self.left -= 1
            if not self.left:
                begin, cpu = self.began
                steps = [b - a for a, b in zip([begin, *self.walls], self.walls, strict=False)]
                channel.send(steps=steps, cpu=time.process_time() - cpu, peak=peak(), misses=misses())
                self.next(control)

        def next(self, control: Any) -> None:
            self.left, self.walls = channel.wait(), []
            control.should_training_stop = not self.left
            self.began = time.perf_counter(), time.process_time()

    return Windows()


def resident() -> int:
    """Bytes of memory in use now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Bytes of memory in use at most, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def versions() -> dict[str, str]:
    """Of the packages whose speed is measured."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


# -- numbers that both sides must agree on -----------------------------------------------------------------------------


def swiftlike_numbers(trainer: Any) -> dict[str, Any]:
    """Through the pipeline's own collator, scorer, reference and loss. The store is filled on the way."""
    import torch
    from swiftlike.data.collate import Item
    from swiftlike.models.logps import group_logps, model_inputs

    groups, size = trainer.train_dataset.groups, trainer.args.train_batch_size
    batches = [trainer.data_collator([Item(g) for g in groups[i : i + size]]) for i in range(0, len(groups), size)]

    def score() -> Any:
        return group_logps(trainer.model(**model_inputs(batches[0])), batches[0])["policy"]

    with torch.no_grad():
        start = [score(), *(trainer.reference(trainer.model, batch) for batch in batches)]
    lengths = [[len(g.prompt.ids), *(len(one.ids) for one in g.completions)] for g in groups]
    return {"lengths": lengths, "start": start[0].T.tolist(), "reference": start[1].T.tolist()} | moved(
        trainer, score, batches[0]
    )


def trl_numbers(trainer: Any) -> dict[str, Any]:
    """Through DPOTrainer's own collator, model and loss."""
    import torch

    rows = [dict(row) for row in trainer.train_dataset]
    batch = trainer.data_collator(rows[: trainer.args.train_batch_size])
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    tokens = {name: batch[name] for name in ("input_ids", "attention_mask")}

    def score() -> Any:
        logps = trainer.model(**tokens, labels=labels, use_cache=False, fused_lm_head=True).log_probs
        return torch.stack(logps.sum(1).chunk(2)).T

    with torch.no_grad():
        start, reference = score(), torch.stack(trainer.compute_ref_log_probs(trainer.model, batch)).T
    lengths = [[len(row[f"{name}_ids"]) for name in ("prompt", "chosen", "rejected")] for row in rows]
    return {"lengths": lengths, "start": start.T.tolist(), "reference": reference.T.tolist()} | moved(
        trainer, score, batch
    )


def moved(trainer: Any, score: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """Log-probabilities, loss and gradient norms of one batch, with an adapter that is the same on both sides and far
    from zero."""
    import torch

    trained = sorted((name, p) for name, p in trainer.model.named_parameters() if p.requires_grad)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in trained:
            parameter.normal_(0, 0.02, generator=generator)
        logps = score()
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in trained}
    largest = max(norms.values())
    shares = {name: norm / largest for name, norm in norms.items()}  # so that TOLERANCE is relative to the largest
    return {"policy": logps.T.tolist(), "loss": loss.item(), "largest_gradient": largest, "gradients": shares}


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
        apart = abs(ours - theirs) > TOLERANCE * max(1.0, abs(theirs))
        return [f"{where}: {ours} against {theirs}"] if apart else []
    return [line for name, one, other in pairs for line in differences(one, other, f"{where}/{name}")]


# -- the driver --------------------------------------------------------------------------------------------------------


class Side:
    """A running worker."""

    def __init__(self, side: str, python: str, options: argparse.Namespace, mode: str, threads: int) -> None:
        folder = Path(options.folder)
        self.name = side
        self.log = folder / f"{side.replace(' ', '_')}_{mode}_{threads}.log"
        words = [python, str(Path(__file__).resolve()), "--worker", side, str(folder / "setting.json"), mode]
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
        self.process = subprocess.Popen(
            words, env=env, cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w")
        )

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
    """What the numbers belong to, and how busy it was."""
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
            "load_average": [round(value, 2) for value in os.getloadavg()],
        }
    return {"system": platform.platform()}


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
                f"  {name:<10}{middle:.2f}x rows/s ({low:.2f} to {high:.2f}), {pair['cpu_efficiency']['median']:.2f}x per "
                f"CPU second, {pair['peak']:.2f}x peak memory ({pair['peak_over_loaded']:.2f}x over the loaded model)"
            )
    lines += ["", *(f"  {name}: {ours} / {theirs}: {meaning}" for name, (ours, theirs, meaning) in PAIRS.items())]
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Make what is trained on, check, measure, write."""
    options = arguments(words)
    if options.worker:
        worker(options.worker[0], Path(options.worker[1]), options.worker[2])
        return 0
    tools = {side.split()[0] for side in options.sides}
    pythons = {"swiftlike": sys.executable} if "swiftlike" in tools else {}
    if "trl" in tools:
        pythons["trl"] = options.trl_python or trl_environment()
    with tempfile.TemporaryDirectory(prefix="text_dpo_") as folder:
        options.folder, options.model, options.data = folder, f"{folder}/model", f"{folder}/pairs.jsonl"
        parameters = make_model(options, Path(options.model))
        rows = make_rows(options)
        Path(options.data).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        setting = {name: value for name, value in vars(options).items() if name != "output"}
        (Path(folder) / "setting.json").write_text(json.dumps(setting))
        before = machine()
        lengths = check(options, pythons)
        options.row_tokens = statistics.mean(2 * prompt + chosen + rejected for prompt, chosen, rejected in lengths)
        settings = []
        for threads in options.threads:
            for mode in options.checkpointing:
                sides = measure(options, pythons, mode, threads)
                found = {"threads": threads, "checkpointing": mode, "sides": sides, "ratios": compare(sides)}
                settings.append(found)
                print(table([found]).rpartition("\n\n")[0], flush=True)
    kept = {name: value for name, value in setting.items() if name not in ("folder", "model", "data", "trl_python", "worker")}
    result = {
        "machine": before | {"load_average_after": [round(value, 2) for value in os.getloadavg()]},
        "model": {"parameters": parameters, "mean_tokens_of_a_pair": options.row_tokens},
        "options": kept,
        "settings": settings,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    options.output.with_suffix(".txt").write_text(table(settings) + "\n", encoding="utf-8")
    print(f"\n{options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

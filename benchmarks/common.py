"""What the benchmarks share: a worker in a process of its own, a model of random weights, and what the numbers belong
to."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

END, PAD, UNKNOWN, USER, ASSISTANT = "<|end|>", "<|pad|>", "<|unk|>", "<|user|>", "<|assistant|>"
PICTURES = ("<image>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
CHAT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|> ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ 'PICTURE ' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ ' ' }}"
    "{% if message['role'] == 'assistant' %}{{ '" + END + "' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + " ' }}{% endif %}"
)
MIB = 2**20


class Side:
    """A running worker, whose program is `script` beside this one."""

    script = ""

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
        }
        if getattr(options, "device", "cpu") == "cpu":
            env["CUDA_VISIBLE_DEVICES"] = ""
        self.started = time.perf_counter()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log.open("w")}
        self.process = subprocess.Popen(words, env=env, cwd=folder, text=True, **pipes)

    def receive(self) -> dict[str, Any]:
        """The next message; stops with the worker's log when there is none."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else self.failed("ended early")

    def send(self, steps: int) -> None:
        """What to do next; 0 ends the worker."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Wait for a clean end."""
        self.process.communicate()
        if self.process.returncode:
            self.failed("failed")

    def failed(self, how: str) -> dict[str, Any]:
        """Stop with the end of the worker's log."""
        sys.exit(f"{self.name} {how}:\n{self.log.read_text()[-4000:]}")


def make_tokenizer(folder: Path, vocabulary: int, picture: str = "") -> None:
    """Words of one token each. `picture` is what the chat template writes for a picture, of a model that has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = [UNKNOWN, PAD, END, USER, ASSISTANT, *(PICTURES if picture else ())]
    words = [*special, *(f"w{i}" for i in range(vocabulary - len(special)))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {
        "image_token": "<image>",
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    if picture == "<image>":
        named = {"image_token": "<image>"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=8192 if picture else 4096,
        **({"model_specific_special_tokens": named} if picture else {}),
    )
    fast.add_special_tokens({"additional_special_tokens": special[3:]})
    fast.chat_template = CHAT.replace("PICTURE", picture)
    fast.save_pretrained(folder)


def text_sizes(options: argparse.Namespace) -> dict[str, Any]:
    """The shape of a language model, as transformers' configurations name it.

    Weights are drawn at 1 / sqrt(inputs), at which signals keep their size, so that context moves the logits.
    """
    return {
        "vocab_size": options.vocabulary,
        "hidden_size": options.hidden,
        "intermediate_size": options.intermediate,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads[0],
        "num_key_value_heads": options.heads[1],
        "initializer_range": options.hidden**-0.5,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "bos_token_id": None,
    }


def make_model(options: argparse.Namespace, folder: Path) -> int:
    """A Llama of random weights with tied embeddings and a tokenizer of one token a word. Gives its parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(options.seed)
    model = LlamaForCausalLM(LlamaConfig(**text_sizes(options), tie_word_embeddings=True))
    model.save_pretrained(folder)
    make_tokenizer(folder, options.vocabulary)
    return sum(parameter.numel() for parameter in model.parameters())


def spread(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Least, median and greatest of the ratios of windows that ran one after the other."""
    ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
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

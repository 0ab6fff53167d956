"""`make demo`: align a tiny vision-language model on drawn shapes, and ask it about pictures it never saw.

Everything is made on this machine: the model from a config and a seed, the pictures by drawing. Inference goes through
plain transformers and PEFT, so it also shows that the checkpoint is an ordinary one. About a minute on two cores.
"""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

MODEL = "tiny-llava1_6"
OUTPUT = Path("output/demo")
COMMAND = (
    f"rlhf --rlhf_type dpo --model_type {MODEL} --sft_type lora --dataset demo-vl --val_dataset demo-vl:test "
    "--learning_rate 5e-3 --num_train_epochs 4 --batch_size 16 --eval_steps 20 --logging_steps 20 "
    f"--add_version false --output_dir {OUTPUT}"
)
SHOWN = 8


def held_out_rows() -> list[dict]:
    """The first rows of the held-out part, with absolute picture paths."""
    from swiftlike.core.cache import cache_folder
    from swiftlike.data.demo import vision

    path = Path(vision(cache_folder("data") / "demo-vl", "test"))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row | {"image": path.parent / row["images"][0]} for row in rows]


def answers(model, processor, rows: list[dict]) -> list[str]:
    """Greedy answers, through transformers alone."""
    import torch
    from PIL import Image

    found = []
    for row in rows:
        question = row["query"].replace("<image>", "")
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(images=[Image.open(row["image"]).convert("RGB")], text=[prompt], return_tensors="pt")
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        found.append(processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return found


def show(rows: list[dict], before: list[str], after: list[str]) -> None:
    """Questions, truth, and both answers."""
    print(f"\n{'question':34} {'truth':8} {'before':22} after")
    for row, old, new in list(zip(rows, before, after, strict=True))[:SHOWN]:
        question = row["query"].replace("<image>", "").strip()
        print(f"{question:34} {row['response']:8} {old!r:22} {new!r}")
    for name, given in (("before", before), ("after", after)):
        right = sum(row["response"].strip(". ") == one.strip(". ") for row, one in zip(rows, given, strict=True))
        print(f"right answers on {len(rows)} held-out pictures, {name}: {right}")


def accuracies() -> list[tuple[str, float]]:
    """Held-out rewards/accuracies over the run, from logging.jsonl."""
    lines = (OUTPUT / "logging.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [(r["step"], r["eval_rewards/accuracies"]) for r in records if "eval_rewards/accuracies" in r]


def demo() -> None:
    """Ask, train, ask again."""
    import shutil

    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    from swiftlike.models.tiny import cached

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    shutil.rmtree(OUTPUT, ignore_errors=True)
    folder, rows = cached(MODEL), held_out_rows()
    processor = AutoProcessor.from_pretrained(folder)
    before = answers(AutoModelForImageTextToText.from_pretrained(folder), processor, rows)
    print(f"$ swiftlike {COMMAND}\n", flush=True)
    subprocess.run([sys.executable, "-m", "swiftlike", *COMMAND.split()], check=True)
    checkpoint = max(OUTPUT.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(folder), checkpoint)
    show(rows, before, answers(model.eval(), processor, rows))
    steps = accuracies()
    print("held-out rewards/accuracies:", ", ".join(f"step {step} {value:.2f}" for step, value in steps))
    if steps[-1][1] < 0.9:
        sys.exit("the demo did not learn: held-out rewards/accuracies below 0.9")
    print(f"checkpoint: {checkpoint}   curves: {OUTPUT}/images")


if __name__ == "__main__":
    demo()

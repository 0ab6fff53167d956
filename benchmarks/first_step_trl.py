"""TRL's side of first_step.py: DPO with LoRA as its documentation shows it, up to the end of the first step."""

import sys
from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

folder = Path(sys.argv[1])


class Said(TrainerCallback):
    """Says when the step is done."""

    def on_step_end(self, *_: object, **__: object) -> None:
        print("first optimiser step done", flush=True)


trainer = DPOTrainer(
    AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
    args=DPOConfig(
        output_dir=str(folder / "theirs"),
        max_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        save_strategy="no",
        report_to="none",
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
    ),
    train_dataset=load_dataset("json", data_files=str(folder / "pairs.jsonl"), split="train"),
    processing_class=AutoTokenizer.from_pretrained(folder / "model"),
    peft_config=LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj"], task_type="CAUSAL_LM"),
)
trainer.add_callback(Said())
trainer.train()

"""The commands of ms-swift v2.6's human preference alignment guides run as written, and newer spellings mean the same.

Each script is expanded by a real shell with `swift` replaced by a function that prints its environment and words.
"""

import subprocess

import pytest

from swiftlike.cli import launch
from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.devices import own_devices
from swiftlike.core.merge import Run

TAIL = r"""    --sft_type  lora \
    --dataset {dataset} \
    --num_train_epochs  2  \
    --lora_target_modules  {targets}  \
    --gradient_checkpointing  true  \
    --batch_size  1  \
    --learning_rate  5e-5  \
    --gradient_accumulation_steps  {accumulation}  \
    --warmup_ratio  0.03  \
    --save_total_limit  2
"""
SINGLE = "CUDA_VISIBLE_DEVICES=0 \\\n"
MP = "CUDA_VISIBLE_DEVICES=0,1 \\\n"
DDP = "nproc_per_node=2\n\nNPROC_PER_NODE=$nproc_per_node \\\nMASTER_PORT=29500 \\\nCUDA_VISIBLE_DEVICES=0,1 \\\n"
DDP_MP = (
    "nproc_per_node=2\n\nCUDA_VISIBLE_DEVICES=0,1,2,3 \\\nNPROC_PER_NODE=$nproc_per_node \\\nMASTER_PORT=29500 \\\n"
)
OWN_FLAGS = {
    "dpo": "--beta 0.1 \\\n    --rpo_alpha 0.1",
    "cpo": "--beta 0.1",
    "orpo": "--beta 0.1",
    "simpo": "--beta 2.0 \\\n    --simpo_gamma 1.0",
    "kto": "--beta 0.1 \\\n    --desirable_weight 1.0 \\\n    --undesirable_weight 1.0",
}
OWN_VALUES = {
    "dpo": {"beta": 0.1, "rpo_alpha": 0.1},
    "cpo": {"beta": 0.1, "cpo_alpha": 1.0},
    "orpo": {"beta": 0.1},
    "simpo": {"beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 1.0},
    "kto": {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
}
MODELS = {
    "llava1_6-mistral-7b-instruct": ("rlaif-v#1000", "DEFAULT"),
    "internvl2-2b": ("rlaif-v#1000", "ALL"),
    "llama3-8b-instruct": ("shareai-llama3-dpo-zh-en-emoji", "ALL"),
}
LAUNCHES = {"single": SINGLE, "MP": MP, "DDP": DDP, "DDP+MP": DDP_MP}
SWIFT = 'swift() { printf "%s\\n" "$CUDA_VISIBLE_DEVICES" "$NPROC_PER_NODE" "$MASTER_PORT" "$@"; }\n'


def script(objective: str, model: str, head: str) -> str:
    dataset, targets = MODELS[model]
    if objective == "kto":
        dataset = "ultrafeedback-kto"
    accumulation = "$(expr 16 / $nproc_per_node)" if "nproc" in head else "16"
    tail = TAIL.format(dataset=dataset, targets=targets, accumulation=accumulation)
    own = OWN_FLAGS[objective]
    return f"{head}swift rlhf \\\n    --rlhf_type {objective} \\\n    --model_type  {model} \\\n    {own} \\\n{tail}"


def expanded(text: str) -> tuple[dict[str, str], list[str]]:
    """Environment and words of the command in a script, as a shell sees them."""
    out = subprocess.run(["bash", "-c", SWIFT + text], capture_output=True, text=True, check=True).stdout.splitlines()
    names = ("CUDA_VISIBLE_DEVICES", "NPROC_PER_NODE", "MASTER_PORT")
    return {name: value for name, value in zip(names, out, strict=False) if value}, out[3:]


def parsed(words: list[str], env: dict[str, str]) -> Run:
    assert words[0] == "rlhf"
    return build_run(load("rlhf"), words[1:], env)[0]


@pytest.mark.parametrize("launched", LAUNCHES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("objective", OWN_FLAGS)
def test_guide_commands_mean_what_the_guide_says(objective: str, model: str, launched: str) -> None:
    env, words = expanded(script(objective, model, LAUNCHES[launched]))
    run = parsed(words, env)
    assert run.rlhf.rlhf_type == objective
    assert (run.model.model, run.model.model_type) == ("", model)
    assert run.data.dataset == ["ultrafeedback-kto" if objective == "kto" else MODELS[model][0]]
    assert (run.tuner.sft_type, run.tuner.lora_target_modules) == ("lora", [MODELS[model][1]])
    train = run.train
    assert (train.batch_size, train.learning_rate, train.num_train_epochs) == (1, 5e-5, 2.0)
    assert (train.warmup_ratio, train.save_total_limit, train.gradient_checkpointing) == (0.03, 2, True)
    assert train.gradient_accumulation_steps == (8 if "DDP" in launched else 16)
    assert {name: getattr(run.loss, name) for name in OWN_VALUES[objective]} == OWN_VALUES[objective]
    assert run.hf == {}


@pytest.mark.parametrize(
    ("launched", "processes", "shares"),
    [
        ("single", 1, [["0"]]),
        ("MP", 1, [["0", "1"]]),
        ("DDP", 2, [["0"], ["1"]]),
        ("DDP+MP", 2, [["0", "2"], ["1", "3"]]),
    ],
)
def test_guide_commands_are_placed_as_ms_swift_places_them(
    launched: str, processes: int, shares: list[list[str]]
) -> None:
    env, _ = expanded(script("dpo", "llava1_6-mistral-7b-instruct", LAUNCHES[launched]))
    plan = launch.plan(env)
    assert (plan.processes if plan else 1) == processes
    assert plan is None or plan.port == 29500
    names = launch.visible_devices(env)
    placed = [[names[at] for at in own_devices(len(names), processes, rank)] for rank in range(processes)]
    assert placed == shares


V2 = (
    "--model_id_or_path m --model_type qwen2 --template_type qwen --sft_type lora --dtype bf16 --quantization_bit 4 "
    "--use_flash_attn true --dataset a#5 b --dataset_test_ratio 0.1 --dataset_seed 1 --check_dataset_strategy discard "
    "--truncation_strategy truncation_left --batch_size 2 --eval_batch_size 3 --lora_target_modules ALL "
    "--lora_dropout_p 0.1 --lora_bias_trainable all --lora_modules_to_save x --preprocess_num_proc 2 "
    "--streaming_buffer_size 16 --deepspeed default-zero2 --ref_model_id_or_path r --add_output_dir_suffix false "
    "--evaluation_strategy no --only_save_model true --device_max_memory 10GB 20GB --dry_run true"
)
V4 = (
    "--model m --model_type qwen2 --template qwen --tuner_type lora --torch_dtype bfloat16 --quant_bits 4 "
    "--attn_impl flash_attention_2 --dataset a#5,b --split_dataset_ratio 0.1 --data_seed 1 --strict false "
    "--truncation_strategy left --per_device_train_batch_size 2 --per_device_eval_batch_size 3 "
    "--target_modules all-linear --lora_dropout 0.1 --lora_bias all --modules_to_save x --dataset_num_proc 2 "
    "--shuffle_buffer_size 16 --deepspeed zero2 --ref_model r --add_version false "
    "--eval_strategy no --save_only_model true --max_memory 0=10GB 1=20GB --dry_run true"
)
V3 = V4.replace("--tuner_type", "--train_type").replace("--dataset_num_proc", "--dataset-num-proc")


@pytest.mark.parametrize("newer", [V3, V4])
def test_newer_spellings_give_the_same_run(newer: str) -> None:
    old = parsed(["rlhf", *V2.split()], {})
    assert parsed(["rlhf", *newer.split()], {}) == old
    assert old.data.on_bad_row == "drop"
    assert old.model.max_memory == {"0": "10GB", "1": "20GB"}

"""No training flag of ms-swift is unknown: each is ours, another spelling of ours, a TrainingArguments field, refused
with what to use instead, or of another command."""

import pytest

from swiftlike.args import hf
from swiftlike.args.refused import REFUSED, refuse
from swiftlike.cli.commands import COMMANDS, load
from swiftlike.core.flags import Flags

V2 = """
model_type model_id_or_path model_revision full_determinism sft_type freeze_parameters freeze_vit
freeze_parameters_ratio additional_trainable_parameters tuner_backend template_type output_dir add_output_dir_suffix
ddp_backend ddp_find_unused_parameters ddp_broadcast_buffers ddp_timeout seed resume_from_checkpoint resume_only_model
ignore_data_skip dtype packing train_backend tp pp min_lr sequence_parallel model_kwargs loss_name dataset val_dataset
dataset_seed dataset_test_ratio use_loss_scale loss_scale_config_path system tools_prompt max_length
truncation_strategy check_dataset_strategy streaming streaming_val_size streaming_buffer_size model_name model_author
rescale_image target_modules target_regex modules_to_save lora_rank lora_alpha lora_dropout lora_bias_trainable
lora_dtype lora_lr_ratio use_rslora use_dora init_lora_weights rope_scaling boft_block_size vera_rank use_galore
galore_rank adalora_target_r ia3_feedforward_modules llamapro_num_new_blocks neftune_noise_alpha neftune_backend
lisa_activated_layers lisa_step_interval reft_rank use_liger gradient_checkpointing vit_use_gc deepspeed batch_size
eval_batch_size auto_find_batch_size num_train_epochs max_steps optim adam_beta1 adam_beta2 adam_epsilon learning_rate
weight_decay gradient_accumulation_steps max_grad_norm predict_with_generate lr_scheduler_type lr_scheduler_kwargs
warmup_ratio warmup_steps eval_steps save_steps save_only_model save_total_limit logging_steps acc_steps
dataloader_num_workers dataloader_pin_memory dataloader_drop_last push_to_hub hub_model_id hub_token hub_private_repo
hub_strategy push_hub_strategy test_oom_error disable_tqdm lazy_tokenize preprocess_num_proc use_flash_attn
ignore_args_error check_model_is_latest logging_dir report_to acc_strategy save_on_each_node eval_strategy
evaluation_strategy save_strategy save_safetensors gpu_memory_fraction include_num_input_tokens_seen local_repo_path
custom_register_path custom_dataset_info device_map_config device_max_memory max_new_tokens do_sample temperature top_k
top_p repetition_penalty num_beams fsdp fsdp_config sequence_parallel_size model_layer_cls_name metric_warmup_step
fsdp_num per_device_train_batch_size per_device_eval_batch_size self_cognition_sample train_dataset_mix_ratio
train_dataset_mix_ds train_dataset_sample val_dataset_sample safe_serialization only_save_model neftune_alpha
deepspeed_config_path model_cache_dir lora_dropout_p lora_target_modules lora_target_regex lora_modules_to_save
custom_train_dataset_path custom_val_dataset_path quant_method quantization_bit hqq_axis bnb_4bit_comp_dtype
bnb_4bit_quant_type bnb_4bit_use_double_quant rlhf_type ref_model_type ref_model_id_or_path beta label_smoothing
loss_type rpo_alpha cpo_alpha simpo_gamma desirable_weight undesirable_weight reward_model_id_or_path kl_coef
num_ppo_epochs whiten_rewards sft_beta eval_human
"""
V4 = """
model train_type tuner_type template torch_dtype attn_impl split_dataset_ratio data_seed strict columns
shuffle_buffer_size interleave_prob stopping_strategy dataset_shuffle dataset_num_proc load_from_cache_file
max_pixels quant_bits adapters ref_adapters ref_model ref_model_revision freeze_llm freeze_aligner vit_lr aligner_lr
trainable_parameters freeze_parameters_regex vit_gradient_checkpointing add_version external_plugins check_model
init_weights lora_bias padding_free ulysses_size loss_scale agent_template enable_thinking template_backend
response_prefix cached_dataset early_stop_interval create_checkpoint_symlink callbacks use_logits_to_keep loss_weights
ld_alpha discopop_tau max_completion_length num_generations reward_funcs use_vllm teacher_model device_map max_memory
use_hf load_args load_data_args norm_bbox
"""


@pytest.mark.parametrize("flag", sorted({*V2.split(), *V4.split()}))
def test_every_ms_swift_flag_has_an_answer(flag: str) -> None:
    declared = any(flag in Flags(load(name)) for name in COMMANDS)  # of another command: the error names that
    assert declared or flag in REFUSED or flag in hf.fields()


def test_a_refused_flag_is_declared_nowhere() -> None:
    declared = {spelling for name in COMMANDS for spelling in Flags(load(name)).spellings()}
    assert not declared & set(REFUSED)


@pytest.mark.parametrize(
    ("flag", "raw"),
    [("packing", "false"), ("sequence_parallel_size", "1"), ("lazy_tokenize", True), ("tuner_backend", "peft")],
)
def test_a_value_that_asks_for_what_happens_anyway_is_fine(flag: str, raw: object) -> None:
    refuse(flag, raw)


@pytest.mark.parametrize(
    ("flag", "raw", "instead"),
    [
        ("packing", "true", "--layout shared"),
        ("use_galore", "true", "--sft_type lora"),
        ("sequence_parallel_size", "2", "--max_length"),
        ("eval_human", "true", "generating"),
        ("rescale_image", "240000", "--max_pixels"),
        ("sft_beta", "0.1", "--rpo_alpha"),
        ("reward_funcs", ["a", "b"], "--rlhf_type"),
    ],
)
def test_a_flag_that_is_not_supported_says_what_to_use(flag: str, raw: object, instead: str) -> None:
    with pytest.raises(ValueError, match=r"not supported \(yet\)") as caught:
        refuse(flag, raw)
    assert instead in str(caught.value)

"""Flags of ms-swift (v2 to v4) that are known and not supported (yet): refused with what to use, never ignored.

A value that asks for what happens anyway (`--packing false`) is accepted, so that old commands need not be edited.
"""

from __future__ import annotations

import dataclasses as dc
from typing import Any

from swiftlike.core.coerce import is_none

NOTHING = ("false", "0", "none", "")


@dc.dataclass(frozen=True)
class Refused:
    """Flags that are not supported for one reason. `neutral` values ask for what happens anyway."""

    flags: str
    reason: str
    neutral: tuple[str, ...] = NOTHING


_GROUPS = (
    Refused("packing", "batches hold no padding (--padding_free), a prompt is computed once (--layout shared)"),
    Refused(
        "sequence_parallel sequence_parallel_size ulysses_size context_parallel_size",
        "lower --max_length, or spread the model over cards",
        (*NOTHING, "1"),
    ),
    Refused(
        "use_galore galore_rank galore_target_modules galore_update_proj_gap galore_scale galore_proj_type "
        "galore_optim_per_parameter galore_with_embedding galore_quantization galore_proj_quant use_liger "
        "lisa_activated_layers lisa_step_interval neftune_alpha neftune_backend lorap_emb_lr",
        "use --sft_type lora, with --use_dora, --use_rslora or --lora_lr_ratio",
    ),
    Refused(
        "longlora_attn adalora_target_r adalora_init_r adalora_tinit adalora_tfinal adalora_deltaT adalora_beta1 "
        "adalora_beta2 adalora_orth_reg_weight ia3_target_modules ia3_feedforward_modules ia3_modules_to_save "
        "llamapro_num_new_blocks llamapro_num_groups adapter_act adapter_length vera_rank vera_target_modules "
        "vera_projection_prng_key vera_dropout vera_d_initial vera_modules_to_save boft_block_size boft_block_num "
        "boft_n_butterfly_factor boft_target_modules boft_dropout boft_modules_to_save fourier_n_frequency "
        "fourier_scaling reft_layers reft_rank reft_intervention_type reft_args use_unsloth",
        "use --sft_type lora",
    ),
    Refused("tuner_backend", "adapters are those of peft", ("peft", "none")),
    Refused("train_backend", "training runs on transformers", ("transformers", "none")),
    Refused(
        "freeze_parameters freeze_parameters_ratio freeze_parameters_regex trainable_parameters "
        "trainable_parameters_regex additional_trainable_parameters",
        "use --freeze_vit, --freeze_aligner and --freeze_llm",
    ),
    Refused(
        "hqq_axis hqq_dynamic_config_path",
        "quantised training is --quant_bits 4 or 8 with --quant_method bnb",
    ),
    Refused("bnb_4bit_quant_type", "4-bit weights are nf4", ("nf4", "none")),
    Refused("bnb_4bit_use_double_quant", "4-bit weights are double-quantised", ("true", "none")),
    Refused(
        "bnb_4bit_comp_dtype bnb_4bit_compute_dtype bnb_4bit_quant_storage",
        "4-bit weights are computed in --torch_dtype",
        ("auto", "none"),
    ),
    Refused(
        "predict_with_generate eval_human save_result",
        "generating answers is `swiftlike infer`: with --val_dataset for rows, without one to talk",
    ),
    Refused("load_args load_args_from_ckpt_dir", "a checkpoint's own flags are always taken", ("true", "none")),
    Refused(
        "tools_prompt agent_template response_prefix enable_thinking template_backend use_chat_template "
        "template_mode norm_bbox",
        "the format is that of --template",
        (*NOTHING, "react_en", "swift", "true"),
    ),
    Refused(
        "loss_scale use_loss_scale loss_scale_config_path loss_name is_binary_loss_scale",
        "every token of the last answer counts alike; a message with `loss: false` does not count",
        (*NOTHING, "default", "last_round"),
    ),
    Refused("acc_strategy acc_steps", "accuracy is counted by token", (*NOTHING, "token", "1")),
    Refused(
        "self_cognition_sample model_name model_author train_dataset_mix_ratio train_dataset_mix_ds",
        "write the rows to a file and name it in --dataset, each with #N",
        (*NOTHING, "0.0", "ms-bench"),
    ),
    Refused("streaming_val_size", "name validation rows with --val_dataset"),
    Refused("lazy_tokenize", "rows are always encoded while training", ("true", "none")),
    Refused(
        "cached_dataset download_mode",
        "prepared rows are kept and found by themselves: --load_from_cache_file",
        (*NOTHING, "true", "reuse_dataset_if_exists"),
    ),
    Refused(
        "rescale_image size_factor resized_height resized_width", "use --max_pixels or --max_image_tokens", ("-1",)
    ),
    Refused(
        "check_model_is_latest check_model ignore_args_error test_oom_error local_repo_path vit_use_gc",
        "nothing like it is needed here",
        (*NOTHING, "true"),
    ),
    Refused("vit_gradient_checkpointing", "use --gradient_checkpointing", ("true", "none")),
    Refused("safe_serialization save_safetensors", "weights are always saved as safetensors", ("true", "none")),
    Refused("logging_dir", "tracker files are in the run folder"),
    Refused("push_hub_strategy", "use --hub_strategy", ("none", "push_best")),
    Refused("gpu_memory_fraction", "use --max_memory"),
    Refused("rope_scaling", "set it in the model's config.json, or with --model_kwargs"),
    Refused("fsdp_num model_layer_cls_name metric_warmup_step", "use --fsdp"),
    Refused("create_checkpoint_symlink", "the best checkpoint is named in logging.jsonl"),
    Refused("callbacks", "use --early_stop_interval, or a --plugin"),
    Refused("group_by_length", "batches are made of rows of like length", (*NOTHING, "true")),
    Refused("precompute_ref_log_probs", "use --ref_logps cache", ("true", "none")),
    Refused("use_peft", "use --sft_type lora", ("true",)),
    Refused(
        "reward_model reward_model_id_or_path reward_model_type reward_model_revision reward_adapters reward_funcs "
        "reward_weights reward_model_plugin local_rollout_forward_batch_size whiten_rewards kl_coef cliprange vf_coef "
        "cliprange_value num_sample_generations num_ppo_epochs response_length missing_eos_penalty num_generations "
        "use_vllm vllm_mode vllm_gpu_memory_utilization vllm_tensor_parallel_size vllm_server_host vllm_server_port "
        "async_generate num_iterations epsilon epsilon_high log_completions teacher_model teacher_model_type lmbda "
        "seq_kd teacher_adapters gamma lam importance_sampling_level dynamic_sample max_resample_times overlong_filter",
        "training on answers that are sampled on the way (ppo, grpo, gkd) is not there; use --rlhf_type dpo or another "
        "of `swiftlike list losses`",
    ),
    Refused("sft_beta", "use --rpo_alpha: the loss is DPO + rpo_alpha x NLL(chosen)"),
    Refused("pp min_lr", "training does not run on Megatron", (*NOTHING, "1")),
    Refused(
        "ld_alpha discopop_tau f_divergence_type f_alpha_divergence_coef use_weighting",
        "see `swiftlike rlhf --help loss` for what the objectives read",
        ("none",),
    ),
    Refused("use_logits_to_keep", "logits are computed only where they count", ("true", "none")),
    Refused("use_swift_lora swift_version", "adapters are those of peft"),
)
REFUSED = {name: group for group in _GROUPS for name in group.flags.split()}


def refuse(flag: str, raw: Any) -> None:
    """KeyError: not a known flag. ValueError: not supported, with what to use. None: the value asks for nothing."""
    group = REFUSED[flag]
    words = raw if isinstance(raw, list) else [raw]
    if all((is_none(word) and "none" in group.neutral) or str(word).lower() in group.neutral for word in words):
        return
    raise ValueError(f"not supported (yet): {group.reason}")

"""TrainingArguments under `training`: which pass through, and which are refused with what reason.

Each argument of transformers stands in one of the two tables, and a test holds them to the
installed version. An argument that does nothing here, or undoes what a run promises, is refused:
a setting that is taken in silence would be believed.
"""

import difflib
from collections.abc import Iterable

__all__ = ["MANAGED_ARGUMENTS", "PASSED_ON", "VLLM_ARGUMENTS", "WITHOUT_EFFECT", "argument_problem"]

MANAGED_ARGUMENTS = {
    "bf16": "set training.dtype instead",
    "fp16": "set training.dtype instead",
    "data_seed": "set seed instead",
    "deepspeed": "set zero_stage, and deepspeed at the top level, instead",
    "eval_strategy": "evaluation follows every iteration, on the rows of data.held_out",
    "gradient_accumulation_steps": (
        "set training.batch_size and training.micro_batch_tokens instead"
    ),
    "learning_rate": "set learning_rate at the top level instead",
    "max_steps": "set epochs at the top level instead",
    "num_train_epochs": "set epochs at the top level instead",
    "output_dir": "set output_dir at the top level instead",
    "per_device_train_batch_size": (
        "set training.batch_size and training.micro_batch_tokens instead"
    ),
    "resume_from_checkpoint": "the same command resumes by itself",
    "save_strategy": "set training.save_steps instead",
    "save_total_limit": "only the last complete checkpoint is kept",
    "seed": "set seed at the top level instead",
    "train_sampling_strategy": "the order of the rows follows from seed",
    "ignore_data_skip": "a resumed run continues at the row where it stopped",
    "save_only_model": "resuming needs the whole checkpoint",
    "auto_find_batch_size": "set training.micro_batch_tokens instead",
    "remove_unused_columns": "batches have no unused columns",
    "accelerator_config": "the run distributes its batches over the ranks itself",
    "fsdp": "set zero_stage instead",
    "torch_compile": "it gains little on CPUs (docs/benchmarks.md) and is untested on GPUs",
    "use_cpu": "set CUDA_VISIBLE_DEVICES to an empty value to use the CPU",
}
"""Arguments that the run itself sets; under `training` they would contradict it."""

_EVALUATION = "evaluation follows every iteration, on the rows of data.held_out"
_PUSHING = "checkpoints stay here, and a run uploads nothing"
_COMPILE = f"training.torch_compile is refused too: {MANAGED_ARGUMENTS['torch_compile']}"
_LOSS = "the loss follows from loss_type, and no other is computed"
_DDP = "workers run under DeepSpeed, not DDP"
_SELECTION = "set selection.metric and selection.goal instead"

WITHOUT_EFFECT = {
    "label_smoothing_factor": _LOSS,
    "label_names": _LOSS,
    "average_tokens_across_devices": "the loss is a mean over examples, not tokens",
    "bf16_full_eval": "set training.dtype instead",
    "fp16_full_eval": "set training.dtype instead",
    "torch_compile_backend": _COMPILE,
    "torch_compile_mode": _COMPILE,
    "use_liger_kernel": "the head is computed in blocks already, and other kernels are untested",
    "liger_kernel_config": "the head is computed in blocks already, and other kernels are untested",
    "use_cache": "training keeps no cache",
    "neftune_noise_alpha": "noise in training would make the log-probs another model's",
    "logging_nan_inf_filter": "a loss that is not finite ends the run",
    "log_on_each_node": "the first rank logs",
    "include_num_input_tokens_seen": "micro-batches are packed, and their tokens are not counted",
    "eval_steps": _EVALUATION,
    "eval_delay": _EVALUATION,
    "eval_on_start": _EVALUATION,
    "per_device_eval_batch_size": _EVALUATION,
    "prediction_loss_only": _EVALUATION,
    "eval_do_concat_batches": _EVALUATION,
    "eval_use_gather_object": _EVALUATION,
    "eval_accumulation_steps": _EVALUATION,
    "include_for_metrics": _EVALUATION,
    "batch_eval_metrics": _EVALUATION,
    "do_train": "every iteration trains and evaluates",
    "do_eval": "every iteration trains and evaluates",
    "do_predict": "every iteration trains and evaluates",
    "save_on_each_node": "set training.save_steps instead",
    "enable_jit_checkpoint": "a run that is stopped saves a checkpoint by itself",
    "restore_callback_states_from_checkpoint": "the same command resumes by itself",
    "load_best_model_at_end": _SELECTION,
    "metric_for_best_model": _SELECTION,
    "greater_is_better": _SELECTION,
    "push_to_hub": _PUSHING,
    "hub_token": _PUSHING,
    "hub_private_repo": _PUSHING,
    "hub_model_id": _PUSHING,
    "hub_strategy": _PUSHING,
    "hub_always_push": _PUSHING,
    "hub_revision": _PUSHING,
    "parallelism_config": "set ranks and zero_stage instead",
    "fsdp_config": "set zero_stage instead",
    "local_rank": "set ranks instead",
    "dataloader_drop_last": "no row is dropped, as the mean is over whole batches",
    "dataloader_in_order": "the order of the rows follows from seed",
    "length_column_name": "set training.micro_batch_tokens instead",
    "skip_memory_metrics": "memory is not among the metrics",
    **dict.fromkeys(
        ("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers"), _DDP
    ),
    **dict.fromkeys(("ddp_static_graph", "ddp_backend", "ddp_timeout"), _DDP),
}
"""Further arguments that would change nothing, or go round what a run promises."""

_WEIGHTS = "samples must come from the opponent's own weights"
_WHOLE = "each rank samples on one device; set ranks instead"
_PROCESS = "the engine runs in one process, which ends as a whole"

VLLM_ARGUMENTS = {
    "detokenize": "token ids go in and come out",
    "dtype": "set training.dtype instead",
    "generation_config": "samples follow generation.temperature alone",
    "gpu_memory_utilization": "set generation.vllm_memory instead",
    "kv_cache_memory_bytes": "set generation.vllm_memory instead",
    "logits_processors": "they would change what is sampled",
    "logprobs_mode": "log-probs are the model's own, at temperature 1",
    "max_model_len": "it follows from the prompts and generation.max_new_tokens",
    "override_generation_config": "samples follow generation.temperature alone",
    "revision": "set model_revision instead",
    "seed": "set seed instead",
    "trust_remote_code": "set trust_remote_code at the top level instead",
    **dict.fromkeys(("model", "model_weights"), "the opponent is sampled"),
    **dict.fromkeys(
        ("skip_tokenizer_init", "tokenizer", "tokenizer_mode", "tokenizer_revision"),
        "token ids go in and come out",
    ),
    **dict.fromkeys(
        ("code_revision", "config_format", "hf_config_path", "hf_overrides", "load_format"),
        _WEIGHTS,
    ),
    **dict.fromkeys(("convert", "enable_lora", "model_class_overrides", "runner"), _WEIGHTS),
    **dict.fromkeys(("quantization", "quantization_config"), _WEIGHTS),
    **dict.fromkeys(
        ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"), _WHOLE
    ),
    **dict.fromkeys(
        ("prefill_context_parallel_size", "decode_context_parallel_size", "nnodes"), _WHOLE
    ),
    **dict.fromkeys(
        ("distributed_executor_backend", "worker_cls", "worker_extension_cls"), _PROCESS
    ),
}
"""Arguments of vLLM's engine that the run sets; under `generation.vllm` they contradict it."""

PASSED_ON = frozenset(
    (
        *("lr_scheduler_kwargs", "optim_args", "optim_target_modules"),
        *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "tf32"),
        *("activation_checkpointing", "activation_checkpointing_kwargs"),
        *("gradient_checkpointing", "gradient_checkpointing_kwargs"),
        *("torch_empty_cache_steps", "full_determinism", "debug"),
        *("logging_strategy", "logging_first_step", "log_level", "log_level_replica"),
        *("disable_tqdm", "report_to", "run_name", "project"),
        *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
        *("dataloader_prefetch_factor", "dataloader_multiprocessing_context"),
    )
)
"""Arguments that do here what they do in transformers."""


def argument_problem(given: Iterable[str]) -> str:
    """Say what is wrong with the first argument that does not pass through; empty if all do.

    Examples
    --------
    >>> argument_problem(["adam_beta1"])
    ''
    >>> argument_problem(["ddp_backend"])
    'remove training.ddp_backend: workers run under DeepSpeed, not DDP'
    >>> argument_problem(["adam_epsilom"])[:62]
    'unknown key training.adam_epsilom; did you mean adam_epsilon? '
    """
    for name in sorted(given):
        reason = MANAGED_ARGUMENTS.get(name) or WITHOUT_EFFECT.get(name)
        if reason:
            return f"remove training.{name}: {reason}"
        if name not in PASSED_ON:
            near = difflib.get_close_matches(name, PASSED_ON, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            return (
                f"unknown key training.{name}; {hint}`spin-train keys` lists the keys, and "
                "no such argument of transformers' TrainingArguments passes through"
            )
    return ""

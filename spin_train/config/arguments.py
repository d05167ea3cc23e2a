"""Arguments of `transformers.TrainingArguments` that a run sets itself."""

__all__ = ["MANAGED_ARGUMENTS"]

MANAGED_ARGUMENTS = {
    "bf16": "set training.dtype instead",
    "fp16": "set training.dtype instead",
    "data_seed": "set seed instead",
    "deepspeed": "set zero_stage instead",
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
"""What to write instead of each: under `training` it would contradict the run."""

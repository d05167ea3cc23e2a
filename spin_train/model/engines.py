"""DeepSpeed engines: one that shares the weights of a policy out over the ranks, and how any ends.

Under ZeRO-3 a rank holds a part of each weight. A forward pass gathers the weights layer by layer
and lets them go again, so the whole model is never on one rank. Gathering needs all ranks: each
must make the same number of forward passes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from spin_train.config.engine import offload_settings

__all__ = ["destroy_engine", "shared_out"]


def shared_out(
    load: Callable[[], Any], *, dtype: str, offload: Mapping[str, str | None] | None = None
) -> Any:
    """Load a model whose weights are shared out over the ranks; all ranks call this together.

    `load` loads it with `from_pretrained`, which then keeps this rank's part of each weight alone.
    `dtype` is that of the weights, and `offload` may keep them in main memory. Returns an engine in
    evaluation mode that cannot train.
    """
    import deepspeed  # so that this module imports where DeepSpeed does not install

    settings = {
        "train_micro_batch_size_per_gpu": 1,  # asked for, and without effect here
        "bf16": {"enabled": dtype == "bfloat16"},
        "zero_optimization": {
            "stage": 3,
            # A weight leaves with its layer, however small it is and however soon it returns.
            "stage3_param_persistence_threshold": 0,
            "stage3_max_reuse_distance": 0,
            # With weights gathered ahead of time, a rank held more than the whole model in the end
            # (benchmarks.memory_by_rank, DeepSpeed 0.19.8).
            "stage3_prefetch_bucket_size": 0,
            **offload_settings(offload),
        },
    }
    said = HfDeepSpeedConfig(settings)  # from_pretrained asks for it as long as it lives
    try:
        model = load()
    finally:
        unset_hf_deepspeed_config()
        del said
    engine, *_ = deepspeed.initialize(model=model, config=settings)
    engine.eval()  # which returns nothing
    return engine


def destroy_engine(engine: Any) -> None:
    """Shut down a DeepSpeed engine so that its memory can be freed."""
    # Under ZeRO-3 hooks of the model keep the engine, and that keeps torch's own optimiser too.
    optimizers = engine.optimizer, engine.basic_optimizer, engine.client_optimizer
    engine.destroy()
    # The optimizer keeps autograd nodes whose hooks keep it and the engine: a cycle through C++
    # that no collection sees, of a whole model a training stage.
    engine.optimizer = engine.basic_optimizer = engine.client_optimizer = None
    engine.lr_scheduler = None
    for optimizer in optimizers:
        if optimizer is not None:
            vars(optimizer).clear()
    for parameter in engine.module.parameters():
        parameter.data, parameter.grad = torch.empty(0), None
        if hasattr(parameter, "ds_tensor"):  # this rank's part under ZeRO-3
            parameter.ds_tensor.data = torch.empty(0)

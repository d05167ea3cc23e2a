"""An engine that has ended keeps no share of a model."""

import gc
import os

import pytest
import torch

from spin_train.driver.launch import _free_port
from spin_train.model.engines import destroy_engine
from tests.train import warm

pytestmark = pytest.mark.process

WIDTH = 512


def train_and_end(zero_stage, path):
    """Write how many tensors as large as a layer are left after an engine's end."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_SIZE="1")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))
    import deepspeed

    deepspeed.init_distributed("gloo", verbose=False)
    _step(deepspeed, zero_stage)
    gc.collect()
    left = [
        kept
        for kept in gc.get_objects()
        if issubclass(type(kept), torch.Tensor) and kept.numel() >= WIDTH**2
    ]
    path.write_text(str(len(left)))
    os._exit(0)


def _step(deepspeed, zero_stage):
    model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(2)))
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters()),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": zero_stage},
        },
    )
    loss = engine(torch.ones(1, WIDTH)).sum()
    engine.backward(loss)
    engine.step()
    destroy_engine(engine)


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_nothing_as_large_as_a_layer_is_left(tmp_path, zero_stage):
    assert warm.fits(dict(os.environ))
    path = tmp_path / "left"
    process = warm._CONTEXT.Process(target=train_and_end, args=(zero_stage, path))
    process.start()
    process.join(120)
    process.kill()
    assert path.read_text() == "0"

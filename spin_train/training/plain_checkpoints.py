"""Checkpoints are read as data: tensors, numbers and a few known classes, never code.

DeepSpeed reads its files with `torch.load(weights_only=False)`, which runs what a file asks for. A
run directory may come from somebody else, so torch is told to refuse that, by any caller.
"""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from spin_train.errors import UserError, one_line

__all__ = ["as_data"]

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@contextmanager
def as_data(checkpoint: Path | None) -> Iterator[None]:
    """Let `torch.load` take nothing but data within the block, what `checkpoint` holds included.

    UserError where a file asks for anything else: no run has written it.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    known = [
        LossScaler,
        ZeroStageEnum,
        fragment_address,
    ]  # what ZeRO 0 to 3 write, DeepSpeed 0.19.8
    try:
        with torch.serialization.safe_globals(known):
            yield
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{checkpoint} holds more than tensors and numbers, so it is not used "
            f"({one_line(error, 200)}): delete it, and the stage starts again"
        ) from error
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before

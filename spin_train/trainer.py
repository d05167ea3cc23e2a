"""Where `SpinTrainer` is imported from; it lives in `training.trainer`."""

from spin_train.training.trainer import SpinTrainer, collate

__all__ = ["SpinTrainer", "collate"]

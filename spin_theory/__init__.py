"""The theory of self-play fine-tuning on tables: every number exact, every claim a check."""

from spin_theory.languages import NoisySort
from spin_theory.losses import PENALTIES, sft_loss, spin_loss, tspin_loss

__all__ = ["PENALTIES", "NoisySort", "sft_loss", "spin_loss", "tspin_loss"]

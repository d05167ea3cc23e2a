"""The losses of self-play on log-probs: the one copy that theory and training share.

Every function is elementwise, keeps dtype and device, and reduces nothing. Log-probs are
those of whole responses, in nats, summed (not averaged) over tokens.

=====================  =============================================================================
``arguments``          what the arguments of a loss must be
``penalties``          the penalties on a margin, by name
``pairs``              SPIN, T-SPIN and SFT
``pointwise``          SPACE and GSIL, which score each response alone
=====================  =============================================================================
"""

from spin_theory.losses.arguments import require_beta, require_weight
from spin_theory.losses.pairs import sft_loss, spin_loss, tspin_loss, with_sft
from spin_theory.losses.penalties import PENALTIES, Penalty, penalty_named, penalty_slope
from spin_theory.losses.pointwise import (
    GSIL_LOSSES,
    PointwiseLoss,
    gsil,
    gsil_loss,
    space,
    space_loss,
)

__all__ = [
    "GSIL_LOSSES",
    "PENALTIES",
    "Penalty",
    "PointwiseLoss",
    "gsil",
    "gsil_loss",
    "penalty_named",
    "penalty_slope",
    "require_beta",
    "require_weight",
    "sft_loss",
    "space",
    "space_loss",
    "spin_loss",
    "tspin_loss",
    "with_sft",
]

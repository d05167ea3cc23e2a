"""The arms: continued SFT, and the kinds of self-play that are compared with it."""

from dataclasses import dataclass, replace

from spin_train.training.objective import Objective, sft_objective

__all__ = ["ARMS", "CONTROL", "Arm"]

CONTROL = "continued SFT"
HISTORY = 0.1  # its published history weight, which is 0 in the first iteration


@dataclass(frozen=True)
class Arm:
    """A loss, and whose samples it trains on."""

    name: str
    objective: Objective
    mixing: int = 0
    """Earlier iterations whose samples are added, as in the key `mixing` of a run."""

    @property
    def plays(self) -> bool:
        """Whether it needs samples; SFT does not."""
        return "generated" in self.objective.roles

    def at(self, iteration: int) -> Objective:
        """Its loss in an iteration, from 0."""
        return replace(self.objective, history_weight=0.0) if iteration == 0 else self.objective


ARMS = (
    Arm(CONTROL, sft_objective()),
    Arm("SPIN, beta 0.1", Objective("spin", beta=0.1)),
    Arm("SPIN, beta 1", Objective("spin", beta=1.0)),
    Arm("SPIN, beta 5", Objective("spin", beta=5.0)),
    Arm("SPIN, beta 0.1, SFT 0.1", Objective("spin", beta=0.1, sft_weight=0.1)),
    Arm("mixing, beta 1", Objective("spin", beta=1.0), mixing=1),
    Arm("T-SPIN, beta 1", Objective("tspin", beta=1.0, history_weight=HISTORY)),
    Arm("SPACE, mu 1", Objective("space", space_mu=1.0)),
)

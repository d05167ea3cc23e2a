"""The inner problems of the bridge: what a run trains, and where theory says that it ends.

Each problem names its keys of the configuration, its closed form or certified minimiser, and wrong
ones that a reader might expect. A network's table has to be near the right one, and far from them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from spin_theory.divergences import tv
from spin_theory.losses import space
from spin_theory.minima.closed_forms import exact
from spin_theory.minima.minimise import minimise_problem, minimiser
from spin_theory.minima.problems import InnerProblem
from spin_theory.objectives.pointwise import pointwise_objective
from spin_theory.policies import TabularPolicy

__all__ = ["TOLERANCE", "Problem", "distance", "problems"]

TOLERANCE = 1e-3
"""Total variation, of the prompt where it is largest. float32 could hold 1e-6; what is left is
where the optimiser has come to in the steps that it is given."""

ClosedForm = Callable[[TabularPolicy, TabularPolicy], TabularPolicy]
"""From opponent and data to the next policy."""


@dataclass(frozen=True)
class Problem:
    """One iteration: an algorithm with its weights."""

    name: str
    algorithm: str = "spin"
    beta: float = 1.0
    loss_type: str = "logistic"
    sft_weight: float = 0.0
    history_weight: float = 0.0
    space_mu: float = 1.0
    training: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the run beyond those of the loss, such as `learning_rate`."""

    @property
    def keys(self) -> dict[str, Any]:
        """What the configuration of a run says."""
        keys: dict[str, Any] = {"algorithm": self.algorithm, "sft_weight": self.sft_weight}
        if self.algorithm == "space":
            keys["space_mu"] = self.space_mu
        else:
            keys |= {"beta": self.beta, "loss_type": self.loss_type}
        if self.algorithm == "tspin":
            keys["history_weight"] = self.history_weight
        return keys | dict(self.training)

    def inner(self, opponent: TabularPolicy, data: TabularPolicy) -> InnerProblem:
        """State the problem on tables; T-SPIN's proto responses are the opponent's."""
        return InnerProblem(
            data=data,
            sampler=opponent,
            reference=None if self.algorithm == "tspin" else opponent,
            beta=self.beta,
            loss_type=self.loss_type,
            initial=opponent,
            history_weight=self.history_weight,
            sft_weight=self.sft_weight,
        )

    def solution(self, opponent: TabularPolicy, data: TabularPolicy) -> TabularPolicy:
        """Policy that minimises the objective over all tables."""
        if self.algorithm == "space":
            return data
        inner = self.inner(opponent, data)
        has_closed_form = self.sft_weight == 0 and self.history_weight == 0
        return exact(inner) if has_closed_form else minimiser(inner)

    def objective(
        self, policy: TabularPolicy, opponent: TabularPolicy, data: TabularPolicy
    ) -> Tensor:
        """Value of the objective, mean over prompts, nats."""
        if self.algorithm == "space":
            return pointwise_objective(policy, opponent, data, loss=space(self.space_mu))
        return self.inner(opponent, data).values(policy).mean()

    def bound(self, opponent: TabularPolicy, data: TabularPolicy) -> float:
        """Value that no policy can go below, certified by duality; of SPACE that of the data."""
        if self.algorithm == "space":
            return float(self.objective(data, opponent, data))
        return minimise_problem(self.inner(opponent, data)).lower_bound

    def wrong_forms(self) -> dict[str, ClosedForm]:
        """List closed forms that are wrong here, by name."""
        forms: dict[str, ClosedForm] = {"no step": lambda opponent, data: opponent}
        if self.algorithm == "space":
            return forms | {"SPIN's at beta 5": Problem("", beta=5.0).solution}
        forms["1.5 times beta"] = _with(self, beta=1.5 * self.beta).solution
        # p_t (p_data / p_t)^power: with power 1 it is the data, with 1/2 it does not change when
        # they are swapped.
        power = 1 / self.beta if self.loss_type == "logistic" else 1 / (2 * self.beta)
        exact_spin = self.algorithm == "spin" and self.sft_weight == 0
        if not (exact_spin and power == 1):
            forms["SFT's: the data"] = lambda opponent, data: data
        if not (exact_spin and power == 0.5):
            forms["data and opponent swapped"] = lambda opponent, data: self.solution(
                data, opponent
            )
        if self.sft_weight:
            forms["without the SFT term"] = _with(self, sft_weight=0.0).solution
        if self.history_weight:
            forms["without history"] = _with(self, history_weight=0.0).solution
        if self.algorithm == "tspin":
            forms["SPIN's"] = _with(self, algorithm="spin", history_weight=0.0).solution
        if self.loss_type == "exponential":
            forms["the logistic penalty's"] = _with(self, loss_type="logistic").solution
        return forms


def _with(problem: Problem, **changes: Any) -> Problem:
    return Problem(**{**vars(problem), **changes})


def distance(one: TabularPolicy, other: TabularPolicy) -> float:
    """Total variation of the prompt where it is largest."""
    return float(tv(one, other).max())


def problems(**training: Any) -> list[Problem]:
    """List the problems that are solved from one base, each with a rate that suits its scale."""
    return [
        Problem("SPIN, beta 0.5", beta=0.5, training=training),
        Problem("SPIN, beta 1", beta=1.0, training=training),
        Problem("SPIN, beta 5", beta=5.0, training=training),
        Problem("exponential, beta 2", beta=2.0, loss_type="exponential", training=training),
        Problem("SPIN, beta 0.5, SFT 0.5", beta=0.5, sft_weight=0.5, training=training),
        Problem("SPACE, mu 3", algorithm="space", space_mu=3.0, training=training),
        Problem("T-SPIN, beta 1", algorithm="tspin", beta=1.0, training=training),
    ]

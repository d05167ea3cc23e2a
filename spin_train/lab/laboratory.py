"""The laboratory: one world on disk, and the real trainer on enumerated or sampled pairs of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from spin_theory.policies import TabularPolicy
from spin_train.driver import selfplay
from spin_train.driver.watching import Watcher
from spin_train.lab.pairs import coupled_triplets, enumerated_pairs, prepare_run
from spin_train.lab.problems import Problem
from spin_train.lab.tabulate import PolicyTable
from spin_train.lab.world import Space, fit_network, table_of
from spin_train.run.run import Run
from spin_train.system.ownership import claim

__all__ = ["SOLVED", "Laboratory", "Player", "near_the_data", "open_laboratory", "steps_of"]

SEED = 16
FLOOR = 0.05  # of a table before it is normalised: with less, sampled pairs often have no minimum

SOLVED: dict[str, Any] = {
    "learning_rate": 1e-3,
    "epochs": 400,
    "training": {
        "optim": "adamw_torch",
        "adam_beta2": 0.9,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "max_grad_norm": 0.0,
        "logging_steps": 10,
    },
}
"""Keys of a run that comes to its minimum: one step per epoch, the rate falls to 0. At four times
this rate a network forgot how to tell prompts apart, and stayed at a TV of 0.05. With Adam's usual
second beta, 0.999, the large gradients of the first steps make the later ones too short: SPIN at
beta 0.5 was at a TV of 0.017 after as many steps."""


def steps_of(steps: int, *, learning_rate: float) -> dict[str, Any]:
    """Keys of a run of plain gradient descent: so many steps at one rate, nothing clipped."""
    training = {
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "warmup_steps": 0.0,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
    }
    return {"learning_rate": learning_rate, "epochs": steps, "training": training}


@dataclass(frozen=True)
class Player:
    """A network and its exact table."""

    source: Path
    table: PolicyTable

    @property
    def policy(self) -> TabularPolicy:
        """Table given the space."""
        return self.table.policy


@dataclass(frozen=True)
class Laboratory:
    """A world: its space, p_data, and the network that games start from."""

    out: Path
    space: Space
    data: Player
    base: Player
    watch: Watcher | None = None

    def train(
        self,
        name: str,
        problem: Problem,
        opponent: Player,
        *,
        initial: Player | None = None,
        weights: Tensor | None = None,
    ) -> tuple[Run, Player]:
        """Play one iteration with `spin-train run`'s own driver, or take the one that is there.

        Parameters
        ----------
        name : str
            What the bar shows; its folder is made of it.
        problem : Problem
            The loss and the training.
        opponent : Player
            Network that is trained, and plays.
        initial : Player, optional
            Network that gave the proto responses of T-SPIN; the opponent if not given.
        weights : Tensor, shape (X, Y, Y) or (X, Y, Y, Y), optional
            Of the pairs or triplets; all of them by their probabilities if not given.

        Returns
        -------
        run : Run
            Finished.
        player : Player
            What was learnt.
        """
        data, policy = self.data.policy, opponent.policy
        if weights is None:
            weights = enumerated_pairs(data, policy)
            if problem.algorithm == "tspin":
                weights = self._triplets(problem, policy, (initial or opponent).policy)
        folder = self.out / name.replace(", ", "-").replace(" ", "_")
        run = prepare_run(
            folder,
            self.space,
            opponent.table,
            data,
            weights,
            model=str(opponent.source),
            **problem.keys,
        )
        selfplay.play(run, watch=_naming(name, self.watch))
        return run, self.player(Path(run.policy(1).source))

    def _triplets(self, problem: Problem, policy: TabularPolicy, initial: TabularPolicy) -> Tensor:
        """Weights of triplets; without history any proto response will do, and one is enough."""
        if problem.history_weight:
            return coupled_triplets(self.data.policy, policy, initial)
        pairs = enumerated_pairs(self.data.policy, policy)
        first = torch.zeros(self.space.responses, dtype=torch.float64)
        first[0] = 1.0
        return pairs[..., None] * first

    def player(self, source: Path) -> Player:
        """Tabulate saved weights."""
        return Player(source, table_of(source, self.space))


def open_laboratory(
    out: Path, *, space: Space | None = None, watch: Watcher | None = None
) -> Laboratory:
    """Make the world in a folder, or open the one that is there."""
    transformers.logging.disable_progress_bar()
    space = Space() if space is None else space
    networks = out / "networks"
    claim(out, key="--out", is_ours=lambda folder: (folder / "networks").is_dir())
    players = {}
    for number, name in enumerate(("data", "base")):
        if watch is not None:
            watch("networks", number, 2, name)
        target = TabularPolicy.random(
            space.prompts, space.responses, seed=SEED + number, smallest=FLOOR
        )
        fit_network(networks / name, space, target, seed=SEED + number)
        players[name] = Player(networks / name, table_of(networks / name, space))
    return Laboratory(out, space, players["data"], players["base"], watch)


def near_the_data(lab: Laboratory, *, size: float) -> Player:
    """Make a network whose table is near p_data: its log-ratio is random, of about this size."""
    folder = lab.out / "networks" / f"near-{size:g}"
    noise = TabularPolicy.random(
        lab.space.prompts, lab.space.responses, seed=SEED + 2, smallest=0.1
    )
    target = TabularPolicy.from_logits(lab.data.policy.log_probs + size * noise.log_probs)
    fit_network(folder, lab.space, target, seed=SEED, start=lab.data.source)
    return lab.player(folder)


def _naming(name: str, watch: Watcher | None) -> Callable[[str, int, int, str], None] | None:
    """Show the stages of a run under its name; only training takes long."""
    if watch is None:
        return None
    return lambda stage, done, total, note: watch(name, done, total, f"{stage} {note}")

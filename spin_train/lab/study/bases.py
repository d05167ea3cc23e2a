"""Five ways in which the model that games start from was trained."""

from dataclasses import dataclass
from typing import Any

from spin_train.lab.study.training import Course, sft_examples, train
from spin_train.lab.study.world import Row, World, network
from spin_train.seeds import seed_of
from spin_train.training.objective import sft_objective

__all__ = ["BASES", "Base", "make_base"]


@dataclass(frozen=True)
class Base:
    """How a base is made; all arms train on the rows that it was trained on."""

    name: str
    steps: int
    """Of SFT, with batches of `batch_size` rows."""
    prompts: int = 1024
    responses: int = 1
    """Real responses per prompt, each a row of its own."""
    noise: float = 0.0
    """Share of the rows whose response is random symbols."""
    width: int = 48
    layers: int = 2
    heads: int = 4
    learning_rate: float = 1e-3
    batch_size: int = 64

    def rows(self, world: World) -> list[Row]:
        """Draw its rows."""
        return world.rows(prompts=self.prompts, responses=self.responses, noise=self.noise)

    def untrained(self, seed: int) -> Any:
        """Make its network with random weights."""
        return network(width=self.width, layers=self.layers, heads=self.heads, seed=seed)


BASES = (
    Base("under-trained", steps=120),
    Base("converged", steps=2400, responses=8),
    Base("over-fitted", steps=400, prompts=128),
    Base("too small", steps=2400, responses=8, width=8, layers=1, heads=2, learning_rate=3e-3),
    Base("noisy rows", steps=1200, responses=4, noise=0.3),
)


def make_base(base: Base, world: World) -> Any:
    """Train a base from random weights."""
    model = base.untrained(world.seed)
    course = Course(base.steps, base.learning_rate, base.batch_size)
    seed = seed_of(world.seed, "study base", base.name)
    train(model, sft_examples(base.rows(world)), sft_objective(), course, seed=seed)
    return model

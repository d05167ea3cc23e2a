"""Games in one process: steps as the trainer computes them, without its start-up.

A run of `spin-train` starts processes and DeepSpeed, which takes longer than a whole cell here. So
losses, log-probs and the order of batches are the package's own, and the schedule is a run's:
warm-up over a tenth of the steps, then a linear fall to 0. The optimiser is AdamW without decay,
and nothing is clipped. So a constant factor on a loss changes nothing, and the control needs no
scale. RMSProp, a run's default, begins with steps of ten times its rate; in games as short as these
that drowned all else. A test holds the weights after some steps against the trainer's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import get_scheduler

from spin_train.lab.study.arms import Arm
from spin_train.lab.study.world import STOP, Row
from spin_train.model.logps import Group, response_logps, response_loss
from spin_train.sampling.engine import SamplingSettings
from spin_train.sampling.transformers_engine import sample
from spin_train.seeds import sample_seed, seed_of
from spin_train.training.batching import MicroBatch, MicroBatches
from spin_train.training.examples import Example
from spin_train.training.objective import Objective

__all__ = ["Course", "play", "score", "sft_examples", "step_loss", "train"]

WARMUP = 0.1  # of the steps
MOST_TOKENS = 8  # of a sample; valid ones have 5, their end included
_ROWS = 256  # that are scored at once


@dataclass(frozen=True)
class Course:
    """How long and how fast one iteration trains."""

    steps: int
    learning_rate: float
    batch_size: int = 32

    @property
    def examples(self) -> int:
        """Examples that the steps take."""
        return self.steps * self.batch_size


def sft_examples(rows: Sequence[Row]) -> list[Example]:
    """Real responses alone."""
    return [Example(Group(row.prompt, [row.response]), [math.nan]) for row in rows]


def train(
    model: Any, examples: Sequence[Example], objective: Objective, course: Course, *, seed: int
) -> None:
    """Take the steps of a course, on as many passes over the examples as they need."""
    batches = MicroBatches(
        examples,
        batch_size=course.batch_size,
        micro_batch_tokens=sum(example.group.tokens for example in examples) + 1,
        ranks=1,
        epochs=course.examples / len(examples),
        seed=seed,
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=course.learning_rate, weight_decay=0.0)
    schedule = get_scheduler(
        "linear",
        optimiser,
        num_warmup_steps=math.ceil(WARMUP * batches.steps),
        num_training_steps=batches.steps,
    )
    for number in range(len(batches)):
        optimiser.zero_grad()
        step_loss(model, batches[number], objective).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()


def step_loss(model: Any, batch: MicroBatch, objective: Objective) -> Tensor:
    """Mean loss of a global batch that is one micro-batch, as `SpinTrainer.compute_loss` has it."""
    opponent = torch.tensor([example.opponent_logps for example in batch.examples])  # (B, roles)

    def weighted(policy_logps: Tensor, block: slice) -> Tensor:
        by_role = policy_logps.view(-1, len(objective.roles))
        return batch.weight * objective(by_role, opponent[block]).sum()

    loss, _ = response_loss(model, [example.group for example in batch.examples], weighted)
    return loss


def play(
    model: Any, rows: Sequence[Row], arm: Arm, course: Course, *, iterations: int, seed: int
) -> None:
    """Play an arm's game with a model, which is changed in place.

    Each iteration takes the rows that its steps need, drawn again; all arms draw the same. What is
    generated is sampled from the model as the iteration finds it, at temperature 1.
    """
    samples: list[dict[int, list[int]]] = []  # of each iteration, by the number of the row
    opponents: list[dict[str, Tensor]] = []
    for k in range(iterations):
        objective = arm.at(k)
        sources = range(k, max(0, k - arm.mixing) - 1, -1) if arm.plays else [k]
        generator = torch.Generator().manual_seed(seed_of(seed, "study rows of", k))
        count = min(len(rows), math.ceil(course.examples / len(sources)))
        chosen = torch.randperm(len(rows), generator=generator)[:count].tolist()
        if not arm.plays:
            examples = sft_examples([rows[number] for number in chosen])
        else:
            opponents.append({n: tensor.clone() for n, tensor in model.state_dict().items()})
            samples.append({})
            wanted = {*sources, 0} if "proto" in objective.roles else set(sources)
            for source in sorted(wanted, reverse=True):
                _complete(model, opponents, samples, source, rows, chosen, seed)
            examples = _examples(model, rows, chosen, objective, samples, sources)
        train(model, examples, objective, course, seed=seed_of(seed, "train", k))


def _complete(
    model: Any,
    opponents: Sequence[dict[str, Tensor]],
    samples: Sequence[dict[int, list[int]]],
    source: int,
    rows: Sequence[Row],
    chosen: Sequence[int],
    seed: int,
) -> None:
    """Let an iteration's opponent answer the rows that it has not answered yet."""
    missing = [number for number in chosen if number not in samples[source]]
    if not missing:
        return
    model.load_state_dict(opponents[source])
    found = sample(
        model,
        [rows[number].prompt for number in missing],
        [sample_seed(seed, source, number, 0) for number in missing],
        SamplingSettings((STOP,), MOST_TOKENS, 1.0, batch_size=len(missing)),
    )
    samples[source].update(
        {number: sampled.ids for number, sampled in zip(missing, found, strict=True)}
    )
    model.load_state_dict(opponents[-1])


def _examples(
    model: Any,
    rows: Sequence[Row],
    chosen: Sequence[int],
    objective: Objective,
    samples: Sequence[dict[int, list[int]]],
    sources: Sequence[int],
) -> list[Example]:
    """Pairs or triplets of the chosen rows, scored by the model as it is, the opponent."""
    groups = []
    for number in chosen:
        for source in sources:
            responses = {"real": rows[number].response, "generated": samples[source][number]}
            if "proto" in objective.roles:
                responses["proto"] = samples[0][number]
            groups.append(Group(rows[number].prompt, [responses[role] for role in objective.roles]))
    logps = score(model, groups).view(len(groups), -1).tolist()
    return [Example(group, scores) for group, scores in zip(groups, logps, strict=True)]


@torch.no_grad()
def score(model: Any, groups: Sequence[Group]) -> Tensor:
    """Log-probs (R,) of all responses, nats, some groups at a time."""
    parts = [groups[first : first + _ROWS] for first in range(0, len(groups), _ROWS)]
    return torch.cat([response_logps(model, part) for part in parts])

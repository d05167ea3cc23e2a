"""The disk of a run: policies that stay, two checkpoints during a save, rows and samples."""

from collections.abc import Sequence

from spin_train.config.schema import Config
from spin_train.plan.engine import Weights
from spin_train.plan.optimiser import Optimiser
from spin_train.plan.rows import Rows
from spin_train.plan.work import Sampled, Trained

__all__ = ["checkpoint_bytes", "disk_of"]

_TOKEN = 4  # bytes on disk before compression
_WRITTEN = 3  # times that a sampled token is written: generations, scores, examples


def checkpoint_bytes(weights: Weights, optimiser: Optimiser, *, zero_stage: int) -> int:
    """Bytes of one checkpoint of a training stage, over all ranks.

    Master weights and optimiser states are float32. The weights themselves are written too, but not
    under ZeRO-3, whose master weights hold them. At ZeRO 0 float32 weights have no master copy.
    """
    narrow = weights.width < 4
    master = 4 if zero_stage > 0 or narrow else 0
    own = 0 if zero_stage == 3 else weights.all
    return int(own + (master + optimiser.states) * weights.trained)


def disk_of(
    config: Config,
    rows: Rows,
    weights: Weights,
    optimiser: Optimiser,
    trained: Sequence[Trained],
    sampled: Sequence[Sampled],
) -> dict[str, int]:
    """Bytes by part at the fullest moment of the last training stage, in the run's directory.

    A checkpoint is written while the one before it is there, and the stage's policy when they are
    done.
    """
    checkpoint = checkpoint_bytes(weights, optimiser, zero_stage=config.zero_stage)
    saves = min(2, max(stage.steps for stage in trained) // config.training.save_steps)
    policies = len(trained) - (saves == 2)
    policy = weights.all
    if config.adapter and config.adapter.between == "stack":
        policy = weights.width * weights.trained
    tokens = sum(
        len(row.prompt_ids) + sum(len(each.ids) for each in row.responses)
        for row in (*rows.train, *rows.held_out)
    )
    new = sum(stage.tokens for stage in sampled)
    parts = {
        f"policies ({policies})": policy * policies,
        f"checkpoints during a save ({saves})": checkpoint * saves,
        "rows and samples": _TOKEN * (tokens * (1 + config.iterations) + _WRITTEN * new),
    }
    return {name: size for name, size in parts.items() if size}

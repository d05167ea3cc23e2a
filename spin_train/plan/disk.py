"""The disk of a run: policies that stay, two checkpoints during a save, rows and samples."""

from collections.abc import Sequence

from spin_train.config.schema import Config
from spin_train.plan.engine import Weights
from spin_train.plan.optimiser import Optimiser
from spin_train.plan.rows import Rows
from spin_train.plan.work import Sampled, Trained
from spin_train.run.graph import Stage, stages_of
from spin_train.run.keeping import spare

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
    spared = _spared(config)
    policies = len(trained) - _policies_gone(config, spared) - (saves == 2)
    policy = weights.all
    if config.adapter and config.adapter.between == "stack":
        policy = weights.width * weights.trained
    tokens = sum(
        len(row.prompt_ids) + sum(len(each.ids) for each in row.responses)
        for row in (*rows.train, *rows.held_out)
    )
    # Of an iteration whose samples go, those for held-out prompts stay.
    stay = len(rows.held_out) / (len(rows.train) + len(rows.held_out))
    gone = {stage.name for stage in spared}
    new = round(sum(stage.tokens * (stay if stage.name in gone else 1) for stage in sampled))
    scored = 1 + config.iterations - (1 - stay) * sum(stage.kind == "score" for stage in spared)
    parts = {
        f"policies ({policies})": policy * policies,
        f"checkpoints during a save ({saves})": checkpoint * saves,
        "rows and samples": _TOKEN * (round(tokens * scored) + _WRITTEN * new),
    }
    return {name: size for name, size in parts.items() if size}


def _spared(config: Config) -> list[Stage]:
    """Stages whose large files `keep` has let go when the last iteration begins."""
    if config.keep == "all":
        return []
    done = {stage.name for stage in stages_of(config) if stage.iteration < config.iterations - 1}
    return spare(config, done)


def _policies_gone(config: Config, spared: Sequence[Stage]) -> int:
    """Count the policies among them; the best one may be any, and a control may be better."""
    gone = sum(stage.kind == "train" for stage in spared)
    return max(0, gone - (1 + config.control)) if config.keep == "best" else gone

"""The stages of a run, in the order they are done."""

from dataclasses import dataclass
from typing import Literal

from spin_train.config.schema import Config

__all__ = ["Stage", "plan"]


Kind = Literal["prepare", "train", "evaluate", "benchmark", "generate", "reference", "score"]


@dataclass(frozen=True)
class Stage:
    """A node of the run's graph; complete once its artefacts are in the manifest."""

    name: str
    """Folder under the run, and kind."""
    kind: Kind
    iteration: int = -1
    """Self-play iteration; -1 before the first."""
    control: bool = False
    """Whether it belongs to the control."""


def plan(config: Config) -> list[Stage]:
    """Stages of a run, in the order they are done.

    Parameters
    ----------
    config : Config
        The run's.

    Returns
    -------
    list of Stage
        Each needs nothing but what earlier ones left on disk.
    """
    stages = [Stage("data/prepare", "prepare")]
    if config.sft:
        stages.append(Stage("sft/train", "train"))
    judge: tuple[Kind, ...] = ("evaluate",)
    if config.evaluation.lm_eval:
        judge = ("evaluate", "benchmark")
    stages += [Stage(f"initial/{kind}", kind) for kind in judge]
    for k in range(config.iterations):
        kinds: tuple[Kind, ...] = ("generate", "score", "train", *judge)
        if config.algorithm == "tspin_ref":
            kinds = ("generate", "reference", "score", "train", *judge)
        stages += [Stage(f"iter{k}/{kind}", kind, k) for kind in kinds]
        if config.control:
            kinds = ("train", *judge)
            stages += [Stage(f"control/iter{k}/{kind}", kind, k, control=True) for kind in kinds]
    return stages

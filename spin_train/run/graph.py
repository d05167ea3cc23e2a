"""The stages of a run, in the order they are done."""

from dataclasses import dataclass
from typing import Literal

from spin_train.config.schema import Config

__all__ = ["ADDED_LATER", "JUDGING", "PREPARE", "Kind", "Stage", "stages_of"]

Kind = Literal[
    "prepare",
    "train",
    "evaluate",
    "answer",
    "benchmark",
    "sample",
    "generate",
    "reference",
    "score",
]
ADDED_LATER: tuple[Kind, ...] = ("answer", "benchmark", "sample")
"""Stages that may be added to a finished run."""
JUDGING: tuple[Kind, ...] = ("evaluate", *ADDED_LATER)
"""Stages that measure a policy; no other stage needs what they leave."""
PREPARE = "data/prepare"
"""Name of the first stage of every run."""


@dataclass(frozen=True)
class Stage:
    """A node of the run's graph; complete once its files are in the manifest."""

    folder: str
    """Where it leaves its files, under the run's directory."""
    kind: Kind
    iteration: int = -1
    """Self-play iteration; -1 before the first."""
    control: bool = False
    """Whether it belongs to the control."""

    @property
    def name(self) -> str:
        """Folder and kind, such as ``iter0/train``."""
        return f"{self.folder}/{self.kind}"


def stages_of(config: Config) -> list[Stage]:
    """List the stages of a run; each needs only what earlier ones left on disk."""
    stages = [Stage("data", "prepare")]
    if config.sft:
        stages.append(Stage("sft", "train"))
    asked = {"answer": config.evaluation.answers, "benchmark": config.evaluation.lm_eval}
    judge = [kind for kind in JUDGING if asked.get(kind, kind != "sample")]
    stages += [Stage("initial", kind) for kind in judge]
    for k in range(config.iterations):
        kinds: tuple[Kind, ...] = ("generate", "score", "train", *judge)
        if config.algorithm == "tspin_ref":
            kinds = ("generate", "reference", "score", "train", *judge)
        stages += [Stage(f"iter{k}", kind, k) for kind in kinds]
        if config.control:
            kinds = ("train", *judge)
            stages += [Stage(f"control/iter{k}", kind, k, control=True) for kind in kinds]
    if config.evaluation.samples and config.generation.engine != "given":
        stages.append(Stage(f"iter{config.iterations - 1}", "sample", config.iterations - 1))
    return stages

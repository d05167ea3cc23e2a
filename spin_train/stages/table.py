"""Which function does which kind of stage."""

from collections.abc import Callable
from pathlib import Path

from spin_train.run.graph import Kind, Stage
from spin_train.stages.answer import answer
from spin_train.stages.benchmark import benchmark
from spin_train.stages.evaluate import evaluate
from spin_train.stages.generate import generate
from spin_train.stages.last import sample_last
from spin_train.stages.prepare import prepare
from spin_train.stages.score import score, score_by_reference
from spin_train.stages.train import train
from spin_train.stages.work import Work

__all__ = ["STAGES"]

STAGES: dict[Kind, Callable[[Work, Stage], list[Path]]] = {
    "prepare": prepare,
    "generate": generate,
    "reference": score_by_reference,
    "score": score,
    "train": train,
    "evaluate": evaluate,
    "answer": answer,
    "benchmark": benchmark,
    "sample": sample_last,
}
"""Kind of stage to the function that does it on one rank, together with the other ranks.

It returns the files that the stage leaves, complete once every rank has returned. It raises
`UserError` for what the user can fix, and `StoppedError` if the driver asked to stop; what was done
until then stays on disk.
"""

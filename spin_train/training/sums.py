"""Sums of the metrics since the last logged line; a checkpoint keeps them, as it keeps weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spin_train.system.files import read_json, write_json
from spin_train.system.ranks import Ranks

__all__ = ["MetricSums", "sums_of_rank"]


class MetricSums:
    """Sums of one rank over the examples since the last line of metrics.jsonl."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._loss = torch.zeros((), dtype=torch.float64)
        self._logged_at = 0

    def add(self, values: dict[str, Tensor], *, loss: Tensor, counts: bool) -> None:
        """Add a micro-batch.

        Parameters
        ----------
        values : dict of str to Tensor, each of shape (B,)
            Metrics of its examples.
        loss : Tensor, shape ()
            Its losses times its weight, summed.
        counts : bool
            False for a filler, which counts for nothing but names the same metrics: ranks must sum
            the same ones.
        """
        columns = {**values, "examples": torch.ones_like(next(iter(values.values())))}
        for name, column in columns.items():
            total = column.double().sum() if counts else torch.zeros_like(column[0]).double()
            self._sums[name] = self._sums.get(name, 0.0) + total
        self._loss = self._loss.to(loss.device) + loss.detach().double()

    def means(self, ranks: Ranks, *, step: int) -> dict[str, float]:
        """Take means over the examples of all ranks, and the mean loss of a step; start again.

        Parameters
        ----------
        ranks : Ranks
            All of them call this at the same step.
        step : int
            Steps done so far.

        Returns
        -------
        dict of str to float
            `loss` first; empty if nothing was added.
        """
        if not self._sums:
            return {}
        names = sorted(self._sums)
        own = [self._loss, *(self._sums[name] for name in names)]
        total, *sums = ranks.sum(torch.stack([value.cpu() for value in own])).tolist()
        totals = dict(zip(names, sums, strict=True))
        examples = totals.pop("examples")
        steps = (step - self._logged_at) * ranks.size
        self._sums, self._loss, self._logged_at = {}, torch.zeros_like(self._loss), step
        return {"loss": total / steps} | {name: sum_ / examples for name, sum_ in totals.items()}

    def write(self, path: Path) -> None:
        """Write the sums of this rank next to its part of a checkpoint.

        Parameters
        ----------
        path : Path
            The file.
        """
        content = {
            "logged_at": self._logged_at,
            "loss": float(self._loss),
            "sums": {name: float(total) for name, total in self._sums.items()},
        }
        write_json(path, content)

    def read(self, path: Path, *, device: torch.device) -> None:
        """Go on from the sums that a checkpoint has; one that has none starts them at 0.

        Parameters
        ----------
        path : Path
            The file.
        device : torch.device
            Where the model lies.
        """
        try:
            content = read_json(path)
        except FileNotFoundError:
            return
        self._logged_at = content["logged_at"]
        sums = {"loss": content["loss"]} | content["sums"]
        ours = {
            name: torch.tensor(total, dtype=torch.float64, device=device)
            for name, total in sums.items()
        }
        self._loss, self._sums = ours.pop("loss"), ours


def sums_of_rank(contents: Sequence[dict[str, Any]], rank: int, ranks: int) -> dict[str, Any]:
    """Give one of `ranks` its part of the sums that other ranks have written.

    Parameters
    ----------
    contents : sequence of dict
        What each of them has written.
    rank, ranks : int
        The new rank, and how many there are. The first takes all sums.

    Returns
    -------
    dict
        What `MetricSums.read` reads.
    """
    takes = float(rank == 0)
    # Weights of micro-batches have the number of ranks in them, and `means` divides by it.
    loss = sum(content["loss"] for content in contents) * ranks / len(contents)
    names = dict.fromkeys(name for content in contents for name in content["sums"])
    return {
        "logged_at": contents[0]["logged_at"],
        "loss": takes * loss,
        "sums": {
            name: takes * sum(content["sums"].get(name, 0.0) for content in contents)
            for name in names
        },
    }

"""A policy in play on one rank: whole, or shared out over all ranks.

Stages ask a held policy for log-probs, or for its model to sample with, and do not know which of
the two it is. A policy that is shared out gathers its weights in each forward pass, from all ranks.
So no rank may make one alone, though rows are uneven and each rank takes the next shard when it is
free. Before each pass the ranks therefore say whether they have rows left. As long as one has, all
make a pass; that of a rank without rows is about a dummy row, and nobody reads it.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from spin_train.model.engines import destroy_engine
from spin_train.model.logps import Group, response_logps
from spin_train.system.heap import freed_at_once
from spin_train.system.ranks import Ranks

__all__ = ["Held", "Shared", "Whole"]

_DUMMY = [Group([0], [[0]])]


class Held(Protocol):
    """What a stage may ask of a policy."""

    @property
    def model(self) -> Any:
        """The model, loaded: for its configuration, and for passes of which one must follow."""

    def visit(self, done: int, total: int) -> None:
        """Report how far the stage is; `StoppedError` here or at the next pass, if asked to."""

    def logps(self, groups: Sequence[Group]) -> Tensor:
        """Give the log-probs (R,) of all responses, as `response_logps` does, without a graph."""


class Whole:
    """A policy of which this rank holds all weights, loaded when it is first asked for."""

    def __init__(self, load: Callable[[], Any], visit: Callable[[int, int], None]) -> None:
        self._load = load
        self.visit = visit

    @cached_property
    def model(self) -> Any:
        """The model."""
        return self._load()

    def logps(self, groups: Sequence[Group]) -> Tensor:
        """Log-probs (R,) of all responses."""
        model = self.model
        with torch.inference_mode():
            return response_logps(model, groups)


class Shared:
    """A policy of which this rank holds a part, loaded by all when one is first asked for it.

    `load` gives an engine. `report` says how far a stage is and does not raise: what ends one rank
    alone would leave the others waiting, so the ranks agree on stopping, too, before a pass.
    """

    def __init__(
        self, load: Callable[[], Any], report: Callable[[int, int], None], ranks: Ranks
    ) -> None:
        self._load = load
        self._ranks = ranks
        self._engine: Any = None
        self._agreed = False  # on a pass that has not begun
        self._kept = ExitStack()
        self.visit = report

    @property
    def model(self) -> Any:
        """The model, whose passes wait for those of the other ranks; one must follow."""
        if self._engine is None:
            self._agree(has_rows=True)
        return self._engine.module

    def logps(self, groups: Sequence[Group]) -> Tensor:
        """Log-probs (R,) of all responses, while the other ranks make passes as well."""
        if self._engine is None:
            self._agree(has_rows=True)
        return self._pass(groups)

    def finish(self) -> None:
        """Make passes for the others until no rank has rows left; then free this rank's part."""
        while self._agree(has_rows=False):
            self._pass(_DUMMY)
        if self._engine is not None:
            destroy_engine(self._engine)
            self._engine = None
            self._kept.close()

    def _agree(self, *, has_rows: bool) -> bool:
        """Say whether a pass follows, alike on all ranks; before the first one, load."""
        self._agreed = self._ranks.anyone(has_rows)
        if self._agreed and self._engine is None:
            self._kept.enter_context(freed_at_once())
            self._engine = self._load()
            self._engine.module.register_forward_pre_hook(self._before_pass, prepend=True)
        return self._agreed

    def _before_pass(self, *_: Any) -> None:
        """Agree before the model gathers any weight, in passes of other callers too."""
        if not self._agreed:
            self._agree(has_rows=True)
        self._agreed = False

    def _pass(self, groups: Sequence[Group]) -> Tensor:
        with torch.inference_mode():
            return response_logps(self._engine, groups)

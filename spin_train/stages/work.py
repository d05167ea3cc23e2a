"""What every stage gets on one rank: the run, the other ranks, and where to report."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from spin_train.config.schema import Config
from spin_train.model.engines import shared_out
from spin_train.model.loading import load_policy
from spin_train.model.logps import expect_rows_up_to
from spin_train.run.graph import Stage
from spin_train.run.manifest import Manifest
from spin_train.run.policies import Policy
from spin_train.run.run import Run
from spin_train.run.shards import forget_claims, shards_of
from spin_train.stages.held import Held, Shared, Whole
from spin_train.stages.parity import compare_with_note
from spin_train.system.files import read_object
from spin_train.system.progress import Progress
from spin_train.system.ranks import Ranks
from spin_train.system.speed import Speed

__all__ = ["Work"]

# Scoring keeps no activations, so it takes this many training micro-batches at once.
_SCORING = 4


@dataclass(frozen=True)
class Work:
    """One rank's share of a run, handed from stage to stage."""

    run: Run
    ranks: Ranks
    progress: Progress
    speed: Speed = field(default_factory=Speed)

    @property
    def config(self) -> Config:
        """Configuration of the run."""
        return self.run.config

    @property
    def scoring_tokens(self) -> int:
        """Tokens that go through the model at once in stages without training."""
        return _SCORING * self.config.training.micro_batch_tokens

    def visit(self, stage: Stage, done: int, total: int) -> None:
        """Report how far a stage is; raise `StoppedError` if the driver asked to stop."""
        self.ranks.raise_if_stopping()
        self.progress.report(stage.name, done, total)

    @contextmanager
    def holding(self, policy: Policy, stage: Stage) -> Iterator[Held]:
        """Hold a policy for the length of a stage, in the way that the configuration asks for.

        All ranks enter and leave together. Within the block they may not talk to each other.
        """
        if self.config.sharded_inference and self.ranks.size > 1:
            report = partial(self.progress.report, stage.name)
            shared = Shared(partial(self.load, policy, shared=True), report, self.ranks)
            yield shared
            shared.finish()
        else:
            yield Whole(partial(self.load, policy), partial(self.visit, stage))

    def load(self, policy: Policy, *, shared: bool = False) -> Any:
        """Load a policy onto this rank's device, in evaluation mode, unless it has changed.

        A `shared` one is an engine that holds this rank's part; all ranks call this together.
        """
        load = partial(load_policy, policy.source, self.config)
        if shared:
            keep = {"parameters": self.config.offload.parameters}  # there is no optimiser
            model = shared_out(load, dtype=self.config.training.dtype, offload=keep)
        else:
            model = load().to(self.ranks.device).eval()
        expect_rows_up_to(model, self.longest_row)
        if isinstance(policy.source, Path):
            compare_with_note(model, policy.source, self.config)
        return model

    @property
    def longest_row(self) -> int:
        """Bound on the tokens of a prompt with its response, once the data are prepared."""
        summary = read_object(self.run.directory.data_summary)
        names = ("response_tokens", "given_tokens")
        responses = [summary[name]["max"] for name in names if name in summary]
        new = self.config.generation.max_new_tokens
        return int(summary["prompt_tokens"]["max"] + max(*responses, new))

    def finished_shards(self, folder: Path) -> list[Path]:
        """Wait until every rank's shards are there, forget who claimed them, and list them."""
        self.ranks.barrier()
        if self.ranks.board is not None:
            shards = shards_of(self.run.directory, self.config.generation)
            return self.ranks.board.wait_for_announced(folder / shard.name for shard in shards)
        if self.ranks.is_first:
            forget_claims(folder)
        return sorted(folder.glob("*.parquet"))

    def files_in(self, folder: Path, pattern: str) -> list[Path]:
        """Files that earlier stages left in a folder, in order."""
        board = self.ranks.board
        return sorted(folder.glob(pattern)) if board is None else board.files_in(folder, pattern)

    def meet_after(self, stage: Stage, manifest: Manifest) -> None:
        """Go on once every node sees what a complete stage left; rank 0 holds the manifest."""
        if self.ranks.board is None:
            return
        sizes = self.ranks.from_first(manifest.sizes(stage.name) if self.ranks.is_first else None)
        self.ranks.board.wait_for(sizes)

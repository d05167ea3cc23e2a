"""A run: its configuration and its directory, and what can be read from them."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from spin_train.config.files import load_config
from spin_train.config.schema import Config
from spin_train.errors import UserError
from spin_train.run.directory import RunDirectory
from spin_train.run.graph import Stage, stages_of
from spin_train.run.manifest import Manifest
from spin_train.run.policies import Policy, control_of, listed_policies, maker_of, policy_of
from spin_train.run.selection import (
    Judged,
    best_of,
    better_control,
    iterations_wanted,
    judged,
)
from spin_train.run.tables import results_table, wide_table
from spin_train.system.files import or_null, write_json

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Run"]


@dataclass(frozen=True, repr=False)
class Run:
    """A run: started, finished, or only configured. Everything is read from its files when asked.

    Examples
    --------
    >>> run = Run.of(Config(model="m", data={"path": "rows.jsonl"}, output_dir="runs/mine"))
    >>> run.policy(2).source
    PosixPath('runs/mine/iter1/policy')
    >>> [policy.name for policy in run.listed]
    ['p_0', 'p_1', 'p_2', 'p_3']
    """

    config: Config
    """Resolved configuration."""
    directory: RunDirectory
    """Where its files lie."""

    @classmethod
    def of(cls, config: Config) -> "Run":
        """Run that a configuration describes, in its `output_dir`.

        Parameters
        ----------
        config : Config
            Resolved; nothing needs to be on disk yet.

        Returns
        -------
        Run
            Not started.
        """
        return cls(config, RunDirectory(config.output_dir))

    @classmethod
    def open(cls, root: str | Path) -> "Run":
        """Run that lies in a directory, wherever that was moved to.

        Parameters
        ----------
        root : str or Path
            Directory of a run, or of a demo.

        Returns
        -------
        Run
            With the configuration saved there.

        Raises
        ------
        UserError
            If there is no run.
        """
        for directory in (RunDirectory(root), RunDirectory(Path(root) / "run")):  # a demo's
            if directory.config_file.is_file():
                return cls(load_config(directory.config_file), directory)
        raise UserError(f"no run at {root}: it has no config.yaml")

    @property
    def root(self) -> Path:
        """Directory of the run."""
        return self.directory.root

    @property
    def stages(self) -> list[Stage]:
        """All stages, in the order they are done."""
        return stages_of(self.config)

    def folder(self, stage: Stage) -> Path:
        """Directory where a stage leaves its files.

        Parameters
        ----------
        stage : Stage
            Any of `stages`.

        Returns
        -------
        Path
            Under `root`.
        """
        return self.root / stage.folder

    def manifest(self) -> Manifest:
        """Read which stages are complete.

        Returns
        -------
        Manifest
            As the file says now.
        """
        return Manifest(self.directory)

    def policy(self, iteration: int) -> Policy:
        """Policy p_K: the opponent of iteration K, whether it is there yet or not.

        Parameters
        ----------
        iteration : int
            K; 0 is where self-play starts.

        Returns
        -------
        Policy
            With the place where it lies or will lie.
        """
        return policy_of(self.config, self.directory, iteration)

    def control(self, iteration: int) -> Policy:
        """Continued SFT after as many iterations as p_K.

        Parameters
        ----------
        iteration : int
            K; 0 is p_0.

        Returns
        -------
        Policy
            With the place where it lies or will lie.
        """
        return control_of(self.config, self.directory, iteration)

    @property
    def listed(self) -> list[Policy]:
        """Every policy that the run makes: p_0, then p_K and control K by iteration."""
        return listed_policies(self.config, self.directory)

    @property
    def policies(self) -> dict[str, Policy]:
        """Policies that are there, by name: ``p_0``, ``p_1``, ``control 1``, ..."""
        there = (policy for policy in self.listed if policy.is_there)
        return {policy.name: policy for policy in there if not self.has_removed(policy)}

    def has_removed(self, policy: Policy) -> bool:
        """Say whether `keep` has removed a policy.

        Parameters
        ----------
        policy : Policy
            Any of `listed`.

        Returns
        -------
        bool
            False too for p_0 where that is `config.model`, which is nobody's to delete.
        """
        maker = maker_of(self.config, policy.iteration, control=policy.control)
        return maker is not None and self.manifest().is_gone(maker)

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Held-out numbers of each policy that is evaluated, by name, in the order of `listed`."""
        found = ((policy.name, policy.numbers) for policy in self.listed)
        return {name: numbers for name, numbers in found if numbers is not None}

    @property
    def best(self) -> Judged | None:
        """Best policy by `selection.metric`; None before the first evaluation."""
        return best_of(self.listed, self.config.selection)

    @property
    def iterations_wanted(self) -> int:
        """Iterations to play, given what is evaluated so far (`selection.patience`)."""
        return iterations_wanted(self.listed, self.config.selection, self.config.iterations)

    @property
    def better_control(self) -> Judged | None:
        """Control that is better than `best` by `selection.metric`; None if there is none."""
        return better_control(self.listed, self.config.selection)

    def __repr__(self) -> str:
        """Say which run this is, how far it is, and which policy is the best.

        Returns
        -------
        str
            One line.
        """
        done = max((p.iteration for p in self.listed if p.numbers is not None), default=0)
        text = f"Run({self.root}: {self._settings()}; "
        text += f"{done} of {self.config.iterations} iterations evaluated"
        with suppress(UserError):  # a metric that no policy has
            if self.best is not None:
                text += f"; best {self.best.name}: {self.config.selection.metric} "
                text += f"{self.best.value:.4g}"
        return text + ")"

    def _settings(self) -> str:
        config = self.config
        scales = [f"{config.at(name, 0):g}" for name in ("beta", "learning_rate")]
        for n, name in enumerate(("beta", "learning_rate")):
            if isinstance(getattr(config, name), list):
                scales[n] = ", ".join(f"{value:g}" for value in getattr(config, name))
        return f"{config.algorithm}, beta {scales[0]}, learning rate {scales[1]}"

    def table(self, *, wide: bool = False) -> Table:
        """Held-out numbers as a table.

        Parameters
        ----------
        wide : bool, default False
            Show all numbers, which takes 140 columns instead of 80.

        Returns
        -------
        rich.table.Table
            One row per policy; it shows itself in a notebook.
        """
        title = f"{self.root}\n{self._settings()}"
        if wide:
            return wide_table(title, self.evaluations)
        control = self.better_control
        return results_table(
            title,
            self.evaluations,
            metric=self.config.selection.metric,
            better_control=control.name if control else "",
        )

    def metrics(self) -> "DataFrame":
        """Read the logged metrics of all training stages.

        Returns
        -------
        pandas.DataFrame
            One row per line of a metrics.jsonl, in the order of the stages: `stage`, `iteration`
            (-1 for SFT), `control`, then what was logged (docs/metrics.md).
        """
        from spin_train.run.frames import metrics_frame

        return metrics_frame(self.root, self.stages)

    def samples(self, iteration: int) -> "DataFrame":
        """Read the responses of an iteration as text.

        Before they are scored these are the samples of p_K. Afterwards the human responses are
        there too, and with mixing or T-SPIN the earlier samples that are trained on. Where `keep`
        has removed the rows to train on, these are the held-out ones alone.

        Parameters
        ----------
        iteration : int
            K; its samples must be there.

        Returns
        -------
        pandas.DataFrame
            One row per response: `prompt_id`, `split` (train or held_out), `prompt`, `role`,
            `response`, `finish_reason`, `iteration`, and once they are scored the log-probs
            (nats, summed over tokens).

        Raises
        ------
        UserError
            If the iteration is not sampled yet.
        """
        from spin_train.run.frames import samples_frame

        return samples_frame(self.config, self.directory, iteration)

    def write_results(self) -> Path:
        """Write results.json: the numbers and benchmarks of all evaluated policies.

        Returns
        -------
        Path
            The file: a list with one object per policy. What is not a number is null.
        """
        rows = [
            {
                "policy": policy.name,
                "folder": str(policy.evaluation.parent.relative_to(self.root)),
                **numbers,
                **({} if policy.answers is None else {"answers": policy.answers}),
                "benchmarks": policy.benchmarks,
            }
            for policy in self.listed
            if (numbers := policy.numbers) is not None
        ]
        write_json(self.directory.results, or_null(rows))
        return self.directory.results

    def write_best(self) -> Path | None:
        """Write best.json: the best policy so far, and the values of all.

        Returns
        -------
        Path or None
            The file; None before the first evaluation.
        """
        best = self.best
        if best is None:
            return None
        better = self.better_control
        content = {
            "metric": self.config.selection.metric,
            "goal": self.config.selection.better,
            "best": self._named(best),
            "values": {
                found.name: found.value for found in judged(self.listed, self.config.selection)
            },
            "better_control": better and self._named(better),
            "stopped_early": self.iterations_wanted < self.config.iterations,
        }
        write_json(self.directory.best, content)
        return self.directory.best

    def _named(self, found: Judged) -> dict[str, Any]:
        removed = {"removed": True} if self.has_removed(found.policy) else {}
        named = {"name": found.name, "policy": str(found.policy.source), "value": found.value}
        return named | removed

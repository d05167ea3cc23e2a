"""The policies of a run: which one is p_K, where it is, and its measurements."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spin_train.config.schema import Config
from spin_train.run.directory import RunDirectory
from spin_train.system.files import read_object

__all__ = ["Policy", "control_of", "listed_policies", "maker_of", "policy_of"]


_CARD = "README.md"


@dataclass(frozen=True)
class Policy:
    """One policy of a run; works wherever a path to a model does.

    Examples
    --------
    >>> policy = Policy("p_1", 1, False, Path("iter0/policy"), Path("iter0/evaluation.json"))
    >>> Path(policy), policy / "config.json"
    (PosixPath('iter0/policy'), PosixPath('iter0/policy/config.json'))
    """

    name: str
    """``p_0``, ``p_1``, ..., ``control 1``, ..."""
    iteration: int
    """K of p_K; control K has trained for as many iterations as p_K."""
    control: bool
    """Whether it is continued SFT, the control, and not self-play."""
    source: str | Path
    """Directory of the model; for p_0 without `sft`, `config.model`, which may be a hub name."""
    evaluation: Path
    """File with its held-out numbers, once it is evaluated; ``benchmark/`` lies next to it."""
    revision: str | None = None
    """Commit or tag to load, where `source` is a hub name."""

    def __fspath__(self) -> str:
        return str(self.source)

    def __truediv__(self, name: str) -> Path:
        return Path(self.source) / name

    def __str__(self) -> str:  # transformers takes str(...) of what it is given
        return str(self.source)

    @property
    def numbers(self) -> dict[str, Any] | None:
        """Held-out numbers (docs/metrics.md); None before the evaluation."""
        return _read(self.evaluation) if self.evaluation.is_file() else None

    @property
    def evaluation_by_example(self) -> Path:
        """File with the numbers of each held-out example that the means are of."""
        return self.evaluation.parent / "evaluation.parquet"

    @property
    def greedy_file(self) -> Path:
        """File with its greedy answers to held-out prompts, token by token."""
        return self.evaluation.parent / "greedy.parquet"

    @property
    def samples_file(self) -> Path:
        """File with the last policy's samples for held-out prompts; no iteration plays it."""
        return self.evaluation.parent / "samples.parquet"

    @property
    def answers_file(self) -> Path:
        """File with what was counted of these answers."""
        return self.evaluation.parent / "answers.json"

    @property
    def answers(self) -> dict[str, Any] | None:
        """Counts of its greedy answers (docs/metrics.md); None where none are decoded."""
        return _read(self.answers_file) if self.answers_file.is_file() else None

    @property
    def benchmarks(self) -> dict[str, dict[str, Any]]:
        """Results of lm-eval by task; empty without benchmarks."""
        files = sorted((self.evaluation.parent / "benchmark").glob("*.json"))
        return {path.stem: _read(path) for path in files}

    @property
    def is_there(self) -> bool:
        """Whether it can be loaded: its directory is whole, or it is what the run started from.

        Where `keep` has removed it, its card may be all that is left.
        """
        if not isinstance(self.source, Path):
            return True
        if not self.source.is_dir():
            return False
        return [path.name for path in self.source.iterdir()] != [_CARD]


def maker_of(config: Config, iteration: int, *, control: bool = False) -> str | None:
    """Name the stage that trains p_K, or control K; None where that is `config.model`."""
    if iteration == 0:
        return "sft/train" if config.sft else None
    return f"control/iter{iteration - 1}/train" if control else f"iter{iteration - 1}/train"


def policy_of(config: Config, directory: RunDirectory, iteration: int) -> Policy:
    """p_K of a run, whether it is there yet or not."""
    name = f"p_{iteration}"
    if iteration > 0:
        folder = directory.iteration(iteration - 1)
        return Policy(name, iteration, False, folder / "policy", folder / "evaluation.json")
    evaluation = directory.initial / "evaluation.json"
    if config.sft:
        return Policy(name, 0, False, directory.sft / "policy", evaluation)
    return Policy(name, 0, False, config.model, evaluation, config.model_revision)


def control_of(config: Config, directory: RunDirectory, iteration: int) -> Policy:
    """Continued SFT after as many iterations as p_K; before the first it is p_0."""
    if iteration == 0:
        return policy_of(config, directory, 0)
    folder = directory.control(iteration - 1)
    name = f"control {iteration}"
    return Policy(name, iteration, True, folder / "policy", folder / "evaluation.json")


def listed_policies(config: Config, directory: RunDirectory) -> list[Policy]:
    """List every policy that a run makes: p_0, then p_K and control K by iteration."""
    policies = [policy_of(config, directory, 0)]
    for k in range(1, config.iterations + 1):
        policies.append(policy_of(config, directory, k))
        if config.control:
            policies.append(control_of(config, directory, k))
    return policies


def _read(path: Path) -> dict[str, Any]:
    return read_object(path)

"""Checks that run before anything is loaded."""

import difflib
import importlib.util
import os
from typing import Any

from spin_train.config.arguments import argument_problem
from spin_train.config.schema import Config
from spin_train.config.sections import TrainingConfig
from spin_train.driver.deepspeed_keys import refuse_unknown_settings
from spin_train.driver.versions import require_versions
from spin_train.errors import UserError
from spin_train.model.adapters import require_adapters
from spin_train.model.checkpoint import refuse_checkpoint
from spin_train.stages.leaderboards import require_benchmarks
from spin_train.system.surroundings import refuse_other_launchers, require_temporary_files

__all__ = ["refuse_early"]


def refuse_early(config: Config, *, launched: bool = False) -> None:
    """Raise `UserError` for whatever cannot work here, in seconds instead of after hours.

    `launched` says that a launcher started this process as one of several, and that this is meant.
    """
    if not launched:
        refuse_other_launchers(os.environ)
    require_temporary_files()
    _require_deepspeed()
    require_versions({"train", "vllm"} if config.generation.engine == "vllm" else {"train"})
    refuse_checkpoint(config.model)
    _refuse_unknown_arguments(config)
    refuse_unknown_settings(config)
    if config.adapter:
        require_adapters(config.adapter)
    if config.generation.engine == "vllm":
        from spin_train.sampling.vllm_engine import require_vllm

        require_vllm(config.generation.vllm)
    require_benchmarks(config)


def _require_deepspeed() -> None:
    """Check that DeepSpeed is installed: the training stages run in its engine."""
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "a run needs DeepSpeed, which is not installed: pip install 'spin-toolkit[train]'"
        )


def _refuse_unknown_arguments(config: Config) -> None:
    """Check what passes through to TrainingArguments, by name."""
    _refuse_unknown_names(config.training)
    given = config.training.model_extra
    if problem := argument_problem(given or {}):
        raise UserError(problem)
    if given and "report_to" in given:
        _require_reporters(given["report_to"])


def _refuse_unknown_names(training: TrainingConfig) -> None:
    """Check optimiser and schedule, before anything is sampled; the defaults need no import."""
    usual = TrainingConfig()
    if (training.optim, training.lr_scheduler_type) == (usual.optim, usual.lr_scheduler_type):
        return
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    for key, kind in (("optim", OptimizerNames), ("lr_scheduler_type", SchedulerType)):
        known, name = [item.value for item in kind], getattr(training, key)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or known
            raise UserError(
                f"training.{key}: transformers has no {name!r}; choose from {', '.join(near)}"
            )


def _require_reporters(report_to: Any) -> None:
    """Check that the reporters are installed, before anything is trained."""
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    present = {*get_available_reporting_integrations(), "flyte", "all", "none"}
    for name in [report_to] if isinstance(report_to, str) else report_to or []:
        if name not in present:
            raise UserError(
                f"training.report_to names {name!r}, which is not installed or unknown to "
                f"transformers: pip install {name}, or remove it"
            )

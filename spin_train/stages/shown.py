"""Samples of the policies in TensorBoard and W&B, where their curves are."""

import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from spin_train.config.schema import Config
from spin_train.errors import one_line
from spin_train.printable import printable
from spin_train.run.frames import prompts_with_samples
from spin_train.run.graph import Stage
from spin_train.run.run import Run

__all__ = ["PROMPTS_SHOWN", "end_reports", "reporters_of", "show_samples"]

_LOG = logging.getLogger(__name__)
PROMPTS_SHOWN = 20
"""Held-out prompts whose samples are shown: the first ones."""
TAG = "samples"


def reporters_of(config: Config) -> list[str]:
    """Names of the reporters of a run, as `training.report_to` says; TensorBoard by default."""
    given = (config.training.model_extra or {}).get("report_to", "tensorboard")
    names = [given] if isinstance(given, str) else list(given or [])
    if "all" in names:
        from transformers.integrations.integration_utils import (
            get_available_reporting_integrations,
        )

        names = get_available_reporting_integrations()
    return [name for name in names if name != "none"]


def show_samples(run: Run, stage: Stage) -> None:
    """Send the human and every policy's responses to some held-out prompts, after they are sampled.

    A reporter that fails says so in the log; the run does not end for it.
    """
    if run.config.generation.engine == "given":
        return
    on = reporters_of(run.config)
    wanted = [name for name in _SHOW if name in on and importlib.util.find_spec(name)]
    if not wanted:
        return
    step = stage.iteration + (stage.kind == "sample")  # K of the p_K that has answered
    for name in wanted:
        try:
            answers = prompts_with_samples(
                run.config, run.directory, split="held_out", most=PROMPTS_SHOWN
            )
            _SHOW[name](run, answers, step)
        except Exception as error:  # of many libraries, and of the network
            _LOG.warning("samples are not shown in %s: %s", name, one_line(error, 300))


def _in_tensorboard(run: Run, answers: Sequence[dict[str, Any]], step: int) -> None:
    from torch.utils.tensorboard import SummaryWriter

    folder = run.directory.logs / "tensorboard" / TAG / f"p_{step}"
    shutil.rmtree(folder, ignore_errors=True)  # TensorBoard would show texts of before as well
    with SummaryWriter(str(folder)) as writer:
        writer.add_text(TAG, "\n\n".join(map(_as_markdown, answers)), step)


def _as_markdown(answer: dict[str, Any]) -> str:
    """Write one prompt with its responses; as code, no text is taken for Markdown or HTML."""
    parts = [f"### Prompt {answer['prompt_id']}", *_paragraph("prompt", answer["prompt"])]
    for name, text in _said(answer):
        parts += _paragraph(name, text)
    return "\n\n".join(parts)


def _paragraph(name: str, text: str) -> list[str]:
    lines = (printable(text) or " ").split("\n")
    return [f"**{name}**", "\n".join(f"    {line}" for line in lines)]


def _said(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """Name who said what: the human, then each policy."""
    found = [("human", text) for text in answer["human"]]
    for name, samples in answer["answers"].items():
        for sample in samples:
            cut = "" if sample["finish_reason"] == "stop" else " [cut at max_new_tokens]"
            found.append((name, sample["response"] + cut))
    return found


def _in_wandb(run: Run, answers: Sequence[dict[str, Any]], step: int) -> None:
    import wandb

    if wandb.run is None:  # else the callback of a training stage has begun it
        wandb.init(
            project=os.environ.get("WANDB_PROJECT", "huggingface"),
            name=(run.config.training.model_extra or {}).get("run_name") or run.root.name,
        )
    rows = [
        [answer["prompt_id"], printable(answer["prompt"]), who, printable(text)]
        for answer in answers
        for who, text in _said(answer)
    ]
    table = wandb.Table(columns=["prompt_id", "prompt", "who", "response"], data=rows)
    wandb.log({f"{TAG}/p_{step}": table})


_SHOW: dict[str, Callable[[Run, Sequence[dict[str, Any]], int], None]] = {
    "tensorboard": _in_tensorboard,
    "wandb": _in_wandb,
}


def end_reports() -> None:
    """Let W&B send what it still has: the process ends without Python's own ending."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and getattr(wandb, "run", None) is not None:
        wandb.finish()

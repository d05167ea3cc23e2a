"""A model card (README.md) for each policy of a run, as the hub reads it."""

import re
from pathlib import Path
from typing import Any

from spin_train.config.schema import Config
from spin_train.run.policies import Policy
from spin_train.run.run import Run
from spin_train.system.files import read_object, write_atomically

__all__ = ["card", "write_cards"]

MARK = "<!-- written by spin-train; a card without this line is left as it is -->"
_TEMPLATES = Path(__file__).parent / "assets"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SPIN = (
    "Chen et al., Self-Play Fine-Tuning Converts Weak Language Models to Strong Language Models, "
    "ICML 2024, [arXiv:2401.01335](https://arxiv.org/abs/2401.01335)"
)
_TSPIN = (
    "Wang et al., Triplets Better Than Pairs: Towards Stable and Effective Self-Play Fine-Tuning "
    "for LLMs, NeurIPS 2025, [arXiv:2601.08198](https://arxiv.org/abs/2601.08198)"
)
_PAPERS = {
    "tspin": [_TSPIN],
    "tspin_ref": [_TSPIN],
    "space": ["SPACE, NeurIPS 2025, [arXiv:2512.07175](https://arxiv.org/abs/2512.07175)"],
    "gsil": ["GSIL, EMNLP 2024, [arXiv:2410.10093](https://arxiv.org/abs/2410.10093)"],
}


def write_cards(run: Run) -> list[Path]:
    """Write the card of each policy that is there; returns those that changed.

    The manifest does not list them, so they decide nothing about resuming. A README.md that it does
    list (PEFT writes one), or that someone else wrote, stays as it is.
    """
    stages = run.manifest().content["stages"].values()
    recorded = {name for stage in stages for name in stage["files"]}
    written = []
    for policy in run.listed:
        if not (isinstance(policy.source, Path) and policy.is_there):
            continue
        path = policy / "README.md"
        if str(path.relative_to(run.root)) in recorded:
            continue
        old = path.read_text(encoding="utf-8") if path.is_file() else None
        new = card(run, policy)
        if old == new or (old is not None and MARK not in old):
            continue
        with write_atomically(path) as partial:
            partial.write_text(new, encoding="utf-8")
        written.append(path)
    return written


def card(run: Run, policy: Policy) -> str:
    """Write the card of a policy as Markdown with its head in YAML."""
    from huggingface_hub import ModelCardData
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    config = run.config
    head = ModelCardData(
        base_model=_on_hub(config.model),
        datasets=[config.data.path] if _on_hub(config.data.path) else None,
        library_name="peft" if (policy / "adapter_config.json").is_file() else "transformers",
        pipeline_tag="text-generation",
        tags=["self-play", config.algorithm.replace("_", "-")],
    )
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=False,  # Markdown; the hub cleans what it shows
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md.jinja").render(
        head=head.to_yaml().strip(),
        mark=MARK,
        policy=policy,
        what=_what(config, policy),
        config=config,
        sft=config.sft is not None,
        settings=_settings(config, policy),
        data=_data(run),
        numbers=_numbers(run, policy),
        papers=_PAPERS.get(config.algorithm, []) + ([] if "tspin" in config.algorithm else [_SPIN]),
    )


def _on_hub(name: str) -> str | None:
    """Give a name back if the hub may know it; a path is of use to nobody else."""
    return name if _HUB_NAME.fullmatch(name) and not Path(name).exists() else None


def _what(config: Config, policy: Policy) -> str:
    method = config.algorithm.upper().replace("TSPIN", "T-SPIN")
    if policy.control:
        return f"continued SFT, the control of {method}"
    return f"{method} after {policy.iteration} iterations" if policy.iteration else "SFT"


def _settings(config: Config, policy: Policy) -> dict[str, Any]:
    training = config.training
    common = {"optimiser": training.optim, "batch size": training.batch_size, "seed": config.seed}
    if policy.iteration == 0:
        if config.sft is None:
            return common
        return {"learning rate": config.sft.learning_rate, "epochs": config.sft.epochs} | common
    k = policy.iteration - 1
    own = {"learning rate": config.at("learning_rate", k), "epochs": config.at("epochs", k)}
    if policy.control:
        return own | common
    generation = config.generation
    method: dict[str, Any] = {"algorithm": config.algorithm, "penalty": config.loss_type}
    if config.algorithm != "space":
        method["beta"] = config.at("beta", k)
    return {
        **method,
        "weight of the SFT term": config.at("sft_weight", k),
        **own,
        **common,
        "samples": f"{generation.samples_per_prompt} per prompt, temperature "
        f"{generation.temperature:g}, at most {generation.max_new_tokens} tokens",
    }


def _data(run: Run) -> dict[str, Any]:
    found = {"path": f"`{run.config.data.path}`"}
    if run.directory.data_summary.is_file():
        summary = read_object(run.directory.data_summary)
        source = summary.get("source", {})
        names = {name: source[name] for name in ("sha256", "revision") if source.get(name)}
        rows = {"training rows": "train", "held-out rows": "held_out"}  # not of given records
        found |= names | {words: summary[key] for words, key in rows.items() if key in summary}
    return found


def _numbers(run: Run, policy: Policy) -> list[list[str]]:
    """Numbers of a policy, and of those to compare it with."""
    shown = {policy.name: policy, "p_0": run.policy(0)}
    if policy.iteration:
        for other in (run.policy(policy.iteration), run.control(policy.iteration)):
            shown[other.name] = other
    if policy.numbers is None:
        return []
    return [
        [name, *(_mean(found, key) for key in ("real_nll_per_token", "real_logps", "margin"))]
        for name, one in shown.items()
        if (found := one.numbers) is not None
    ]


def _mean(numbers: dict[str, Any], name: str) -> str:
    value, error = numbers.get(name), numbers.get(f"{name}_standard_error")
    if value is None:
        return ""
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"

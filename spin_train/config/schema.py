"""The schema of a run: top-level keys with defaults and meaning; contradictions name the key."""

from datetime import date
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from spin_train.config.keys import Free, Loss, OfControl, Play, Start, Training
from spin_train.config.paths import Located
from spin_train.config.sections import (
    AdapterConfig,
    DataConfig,
    EvaluationConfig,
    GenerationConfig,
    Section,
    SelectionConfig,
    SftConfig,
    TrainingConfig,
)
from spin_train.config.templates import arguments_problem, template_problem

__all__ = ["SCHEDULES", "Config"]

Schedule = float | list[float]
SCHEDULES = ("beta", "history_weight", "learning_rate", "epochs")
"""Keys that take one number, or one per iteration."""

LossType = Literal["logistic", "hinge", "exponential", "correlation"]


class Config(Section):
    """The configuration of a whole run."""

    model: Start[Located]
    """Causal language model to start from: a directory or a hub name."""
    model_revision: Start[str | None] = None
    """Commit or tag of a hub model."""
    trust_remote_code: Start[bool] = False
    """Run code that comes with a hub model. Off unless asked for."""
    template: Start[str | None] = None
    """Prompt template with one `{prompt}`, or a published one by name: `spin-official`, `tspin`,
    `zephyr`; null uses the tokenizer's chat template."""
    template_arguments: Start[dict[str, Any]] = Field(default={})
    """Further arguments of the chat template, such as `enable_thinking: false`."""
    template_date: Start[date] = date(2024, 7, 26)
    """Day that a chat template takes for today, so that a run does not depend on when it starts."""
    data: Start[DataConfig]
    output_dir: Free[Located]
    """Directory of the run; an existing run is resumed."""
    seed: Start[int] = Field(default=42, ge=0)
    """Seed for everything random: split, samples, order of the rows."""
    algorithm: Play[Literal["spin", "tspin", "tspin_ref"]] = "spin"
    """`spin`: pairs, log-ratios to the opponent (with `generation.engine: given` and one iteration
    this is DPO). `tspin`: triplets, no reference. `tspin_ref`: triplets, log-ratios to p_0."""
    loss_type: Loss[LossType] = "logistic"
    """Penalty of the loss."""
    iterations: Free[int] = Field(default=3, ge=1)
    """Self-play iterations."""
    beta: Loss[Schedule] = 0.1
    """Scale on log-prob differences: SPIN's lambda, T-SPIN's alpha. Scalar or one per iteration."""
    history_weight: Loss[Schedule | None] = None
    """T-SPIN's beta. Scalar or one per iteration; null is 0, then 0.1, as published."""
    learning_rate: Loss[Schedule] = 5e-7
    """Peak learning rate. Scalar or one per iteration."""
    epochs: Loss[Schedule] = 2.0
    """Passes over the pairs. Scalar or one per iteration."""
    mixing: Play[int] = Field(default=0, ge=0)
    """Earlier iterations whose samples are added to an iteration's own (official SPIN: 1)."""
    sft: Start[SftConfig | None] = None
    """Supervised stage before self-play; null starts from `model` as it is."""
    control: OfControl[bool] = False
    """Also train continued SFT in every iteration, with the same rows, steps, optimiser and
    learning rate."""
    adapter: Start[AdapterConfig | None] = None
    """Train LoRA adapters; null trains all weights."""
    selection: Free[SelectionConfig] = SelectionConfig()
    generation: Play[GenerationConfig] = GenerationConfig()
    training: Training[TrainingConfig] = TrainingConfig()
    evaluation: Free[EvaluationConfig] = EvaluationConfig()
    zero_stage: Free[Literal[0, 1, 2, 3]] = 2
    """DeepSpeed ZeRO stage."""
    ranks: Free[int] = Field(default=1, ge=1)
    """Worker processes, one per device."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in SCHEDULES:
            value = getattr(self, name)
            if isinstance(value, list) and len(value) != self.iterations:
                raise ValueError(
                    f"{name} has {len(value)} values for {self.iterations} iterations; "
                    "give one number or exactly one per iteration"
                )
            numbers = value if isinstance(value, list) else [] if value is None else [value]
            if name == "history_weight" and not all(number >= 0 for number in numbers):
                raise ValueError(f"history_weight must be >= 0, got {value!r}")
            if name != "history_weight" and not all(number > 0 for number in numbers):
                raise ValueError(f"{name} must be > 0, got {value!r}")
        if self.history_weight is not None and self.algorithm == "spin":
            raise ValueError("history_weight belongs to algorithm: tspin; remove it for spin")
        given = self.generation.engine == "given"
        if given and (self.iterations > 1 or self.algorithm != "spin"):
            raise ValueError(
                "generation.engine: given trains one iteration of algorithm: spin on the pairs of "
                "the data; set iterations: 1"
            )
        if self.adapter and self.adapter.between == "stack" and self.generation.engine == "vllm":
            raise ValueError("generation.engine: vllm needs whole weights; set between: merge")
        if self.control and self.algorithm != "spin":
            raise ValueError("control exists only for algorithm: spin; remove it for tspin")
        if self.adapter and self.adapter.quantised and self.adapter.between != "stack":
            raise ValueError(
                "adapter.quantised: adapters cannot be merged into 4-bit weights; "
                "set between: stack"
            )
        if self.adapter and self.adapter.between == "stack" and self.zero_stage == 3:
            raise ValueError(
                "adapter.between: stack loads whole weights; set zero_stage to 0, 1 or 2"
            )
        if problem := arguments_problem(self.template, self.template_arguments):
            raise ValueError(problem)
        if problem := template_problem(self.template):
            raise ValueError(problem)
        return self

    def at(self, name: str, iteration: int) -> float:
        """Value that a schedule (`SCHEDULES`) has in a self-play iteration, from 0."""
        value = getattr(self, name)
        if name == "history_weight" and value is None:
            return 0.0 if iteration == 0 or self.algorithm == "spin" else 0.1
        return float(value[iteration] if isinstance(value, list) else value)

"""The schema of a run: top-level keys with defaults and meaning; contradictions name the key."""

import math
from datetime import date
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from spin_train.config.engine import engine_problem
from spin_train.config.keys import Free, Loss, OfControl, Play, Start, Training
from spin_train.config.paths import Located
from spin_train.config.sections import (
    AdapterConfig,
    DataConfig,
    EvaluationConfig,
    GenerationConfig,
    OffloadConfig,
    Section,
    SelectionConfig,
    SftConfig,
    TrainingConfig,
)
from spin_train.config.templates import arguments_problem, template_problem

__all__ = ["SCHEDULES", "Config"]

Schedule = float | list[float]
SCHEDULES = ("beta", "history_weight", "sft_weight", "learning_rate", "epochs")
"""Keys that take one number, or one per iteration."""
MAY_BE_ZERO = ("history_weight", "sft_weight")
"""Schedules whose values may be 0."""

PENALTIES = ("logistic", "hinge", "exponential", "correlation")
GSIL_LOSSES = ("bernoulli", "brier", "hinge", "kliep", "lsif")
LossType = Literal[
    "logistic", "hinge", "exponential", "correlation", "bernoulli", "brier", "kliep", "lsif"
]
LOSS_TYPES = {
    "spin": PENALTIES,
    "tspin": PENALTIES,
    "tspin_ref": PENALTIES,
    "space": ("logistic",),
    "gsil": GSIL_LOSSES,
}
"""Values of `loss_type` by algorithm."""
OWNED = {"space_mu": ("space", 1.0), "gsil_shift": ("gsil", 0.0)}
"""Keys that belong to one algorithm, with the value that they have without it."""


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
    algorithm: Play[Literal["spin", "tspin", "tspin_ref", "space", "gsil"]] = "spin"
    """`spin`: pairs, log-ratios to the opponent (with `generation.engine: given` and one iteration
    this is DPO). `tspin`: triplets, no reference. `tspin_ref`: triplets, log-ratios to p_0. `space`
    and `gsil`: pairs whose two log-ratios to the opponent are scored one by one."""
    loss_type: Loss[LossType] = "logistic"
    """Penalty of the loss: `logistic`, `hinge`, `exponential` or `correlation`. For gsil it is one
    of `bernoulli`, `brier`, `hinge`, `kliep` and `lsif`; space has none."""
    iterations: Free[int] = Field(default=3, ge=1)
    """Self-play iterations."""
    beta: Loss[Schedule] = 0.1
    """Scale on log-prob differences: SPIN's lambda, T-SPIN's alpha, the scale of gsil. Scalar or
    one per iteration. space has none: its log-ratios are taken as they are."""
    history_weight: Loss[Schedule | None] = None
    """T-SPIN's beta. Scalar or one per iteration; null is 0, then 0.1, as published."""
    sft_weight: Loss[Schedule] = 0.0
    """Weight of an SFT term that is added to the loss: the negative log-prob of the real response,
    summed over its tokens. Scalar or one per iteration."""
    space_mu: Loss[float] = Field(default=1.0, gt=0, allow_inf_nan=False)
    """`space`: how many generated responses per real one its classifier assumes."""
    gsil_shift: Loss[float] = Field(default=0.0, allow_inf_nan=False)
    """`gsil`: what is added to the scaled log-ratios. At beta 1 and shift 0 the data are the
    optimum."""
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
    keep: Free[Literal["all", "best", "last"]] = "all"
    """What stays once no later stage needs it. `all`: everything. `last`: the last iteration, with
    its policy and control. `best`: also the best policy by `selection.metric`, and a control that
    is better. Other policies are deleted, and samples and scores of rows to train on."""
    generation: Play[GenerationConfig] = GenerationConfig()
    training: Training[TrainingConfig] = TrainingConfig()
    evaluation: Free[EvaluationConfig] = EvaluationConfig()
    zero_stage: Free[Literal[0, 1, 2, 3]] = 2
    """DeepSpeed ZeRO stage."""
    offload: Free[OffloadConfig] = OffloadConfig()
    deepspeed: Training[dict[str, Any]] = Field(default={})
    """Further settings of DeepSpeed's engine for training, in its own words, such as
    `{zero_optimization: {overlap_comm: true}}`. What another key decides is refused here."""
    sharded_inference: Free[bool] = False
    """While a policy samples (`engine: hf`), scores and is evaluated, each rank holds its share and
    gathers layers one by one: for models that do not fit on one device. This is slower."""
    ranks: Free[int | None] = Field(default=None, ge=1)
    """Worker processes, one per device. null is 1, or as many as torchrun, srun or deepspeed
    started."""
    node_timeout: Free[float] = Field(default=120.0, gt=0, allow_inf_nan=False)
    """On several nodes, seconds to wait for a file that another node wrote, and for a node that
    does not answer. Then the run ends with its name."""

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
            if name in MAY_BE_ZERO and not all(0 <= number < math.inf for number in numbers):
                raise ValueError(f"{name} must be >= 0, got {value!r}")
            if name not in MAY_BE_ZERO and not all(0 < number < math.inf for number in numbers):
                raise ValueError(f"{name} must be > 0, got {value!r}")
        self._check_loss()
        given = self.generation.engine == "given"
        if given and (self.iterations > 1 or self.algorithm != "spin"):
            raise ValueError(
                "generation.engine: given trains one iteration of algorithm: spin on the pairs of "
                "the data; set iterations: 1"
            )
        if self.adapter and self.adapter.between == "stack" and self.generation.engine == "vllm":
            raise ValueError("generation.engine: vllm needs whole weights; set between: merge")
        if self.adapter and self.adapter.quantised and self.adapter.between != "stack":
            raise ValueError(
                "adapter.quantised: adapters cannot be merged into 4-bit weights; "
                "set between: stack"
            )
        if self.adapter and self.adapter.between == "stack" and self.zero_stage == 3:
            raise ValueError(
                "adapter.between: stack loads whole weights; set zero_stage to 0, 1 or 2"
            )
        if self.adapter and self.adapter.between == "stack" and self.sharded_inference:
            raise ValueError("adapter.between: stack loads whole weights; remove sharded_inference")
        if problem := engine_problem(self.zero_stage, self.offload.model_dump(), self.deepspeed):
            raise ValueError(problem)
        if problem := arguments_problem(self.template, self.template_arguments):
            raise ValueError(problem)
        if problem := template_problem(self.template):
            raise ValueError(problem)
        return self

    def _check_loss(self) -> None:
        """Refuse keys of the loss that contradict the algorithm."""
        algorithm = self.algorithm
        if self.history_weight is not None and not self.has_triplets:
            raise ValueError(
                f"history_weight belongs to algorithm: tspin; remove it for {algorithm}"
            )
        if algorithm == "space" and self.loss_type != "logistic":
            raise ValueError("space has one loss; remove loss_type")
        if self.loss_type not in LOSS_TYPES[algorithm]:
            raise ValueError(
                f"loss_type must be one of {', '.join(LOSS_TYPES[algorithm])} for algorithm: "
                f"{algorithm}, got {self.loss_type!r}"
            )
        for key, (owner, usual) in OWNED.items():
            if algorithm != owner and getattr(self, key) != usual:
                raise ValueError(f"{key} belongs to algorithm: {owner}; remove it for {algorithm}")
        values = self.beta if isinstance(self.beta, list) else [self.beta]
        if algorithm == "space" and not set(values) <= {1.0, Config.model_fields["beta"].default}:
            raise ValueError(
                f"space takes log-ratios as they are, with scale 1; remove beta, got {self.beta!r}"
            )
        weights = self.sft_weight if isinstance(self.sft_weight, list) else [self.sft_weight]
        silent = algorithm == "gsil" and self.loss_type == "hinge" and self.gsil_shift >= 1
        if self.control and silent and 0.0 in weights:
            raise ValueError(
                "control: with loss_type: hinge and gsil_shift >= 1 the loss has no gradient at "
                "the opponent to scale the control by; set gsil_shift below 1 or remove control"
            )

    @property
    def has_triplets(self) -> bool:
        """Whether responses of p_0 come into the loss, as T-SPIN's do.

        Returns
        -------
        bool
            True for tspin and tspin_ref.
        """
        return self.algorithm in ("tspin", "tspin_ref")

    def at(self, name: str, iteration: int) -> float:
        """Value that a schedule (`SCHEDULES`) has in a self-play iteration, from 0."""
        value = getattr(self, name)
        if name == "history_weight" and value is None:
            return 0.0 if iteration == 0 or not self.has_triplets else 0.1
        if name == "beta" and self.algorithm == "space":
            return 1.0
        return float(value[iteration] if isinstance(value, list) else value)

"""Where DeepSpeed's memory goes in a training stage, moment by moment, on one rank.

P trained weights of w bytes on N ranks, of which a rank's share is S = P / N, and optimiser states
of k bytes per float32 number::

                        ZeRO 0         ZeRO 1, 2          ZeRO 3
    weights             w P            w P                w S, and w P of layers in use
    master weights      -, 4 P (bf16)  4 S                4 S
    optimiser states    k P            k S                k S
    gradients           w P            4 S (1: w P)       4 S
    before reduction    w P            w P or a bucket    a bucket
    in a step           4 P (bf16)     4 S                4 S of a sub-group

ZeRO 1 to 3 keep float32 master weights next to float32 weights too. Gradients of bfloat16 are
summed in float32 under ZeRO 2 and 3 (`spin_train.config.engine`). A bucket is 500 million numbers
in DeepSpeed's defaults, and a sub-group of ZeRO-3 a billion. On a CPU a bucket counts as far as it
is filled; on a GPU it is taken whole.

On a CPU the C library keeps what was taken in small pieces, as activations are, when it is free
again. So there they are part of every later moment, and so is what loading under ZeRO-3 took.

`offload` moves what belongs to the optimiser, or the shares of the weights, from a GPU to the main
memory of its machine. On a CPU they are there already.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from spin_train.plan.optimiser import Optimiser
from spin_train.plan.trace import Trace

__all__ = ["Moment", "Weights", "largest_moment", "moments"]

_BUCKET = 500_000_000  # numbers: reduce_bucket_size
_GROUP = 1_000_000_000  # numbers: sub_group_size of ZeRO-3, and its max_live_parameters
_MASTER = 4  # bytes of a float32 number
# Copies of the whole weights: transformers reads all of them on each rank to share them out. Seen
# with transformers 5.23 for three sizes on one rank and on two.
_LEFT_BY_LOADING = 2
_OFFLOADED = {
    "optimizer": (
        "master weights (float32)",
        "optimiser states",
        "gradients",
        "gradients in float32",
        "the optimiser's temporaries",
    ),
    "parameters": ("weights",),
}
"""Parts that `offload` moves, by its keys."""

Parts = dict[str, int]


@dataclass(frozen=True)
class Weights:
    """Numbers of weights of a model."""

    trained: int
    frozen: int
    largest: int
    """Of the largest trained tensor."""
    width: int
    """Bytes of each: 4 for float32, 2 for bfloat16."""

    @property
    def all(self) -> int:
        """Bytes of all weights, as the model is loaded and saved."""
        return self.width * (self.trained + self.frozen)


@dataclass(frozen=True)
class Moment:
    """What is alive at once, bytes by part."""

    name: str
    parts: Parts
    """On the device of a rank."""
    host: Parts = field(default_factory=dict)
    """What `offload` has moved from there into main memory."""

    @property
    def total(self) -> int:
        """Sum of the parts on the device."""
        return sum(self.parts.values())


def largest_moment(found: list[Moment]) -> Moment:
    """Find the moment that decides."""
    return max(found, key=lambda moment: moment.total)


def moments(
    weights: Weights,
    optimiser: Optimiser,
    trace: Trace,
    *,
    zero_stage: int,
    ranks: int,
    device: str,
    accumulates: bool,
    offload: Mapping[str, str | None] | None = None,
) -> list[Moment]:
    """List the moments of a training stage that may be its peak, on one rank."""
    if zero_stage == 0:
        found = _unsharded(weights, optimiser, trace, device, accumulates)
    elif zero_stage == 3:
        found = _sharded(weights, optimiser, trace, ranks, device)
    else:
        found = _partly(weights, optimiser, trace, ranks, device, accumulates, zero_stage)
    moved: set[str] = set()
    if device != "cpu":
        moved = {part for key, to in (offload or {}).items() if to for part in _OFFLOADED[key]}
    listed = []
    for name, sizes in found:
        whole = {part: int(size) for part, size in sizes.items()}
        stays = {part: size for part, size in whole.items() if part not in moved}
        listed.append(Moment(name, stays, {p: whole[p] for p in whole.keys() & moved}))
    return listed


def _passes(trace: Trace) -> dict[str, float]:
    return {
        "activations": trace.activations,
        "logits, loss and temporaries": trace.passing - trace.activations,
    }


def _left(trace: Trace, device: str) -> dict[str, float]:
    """Name what the passes leave to a step: on a CPU, memory that is free but not given back."""
    return {} if device != "cpu" else {"free, kept by the C library": trace.passing}


def _borrowed(optimiser: Optimiser, numbers: float, largest: float) -> dict[str, float]:
    taken = numbers if optimiser.all_at_once else largest
    return {"the optimiser's temporaries": optimiser.borrowed * taken}


def _unsharded(
    weights: Weights, optimiser: Optimiser, trace: Trace, device: str, accumulates: bool
) -> list[tuple[str, dict[str, float]]]:
    """ZeRO 0: whole weights, gradients and states on each rank, tensor by tensor."""
    count, width = weights.trained, weights.width
    narrow = width < _MASTER
    kept: dict[str, float] = {"weights": weights.all}
    if narrow:
        kept["master weights (float32)"] = _MASTER * count
    kept["optimiser states"] = optimiser.states * count
    gradients = {"gradients": float(width * count)}
    # The gradients of the micro-batch come on top of those of earlier ones, tensor by tensor.
    passing = gradients if accumulates else {"gradients": float(trace.peak - trace.passing)}
    bucket = width * min(count, _BUCKET + weights.largest)
    step = {"gradients in float32": float(_MASTER * count)} if narrow else {}
    left = _left(trace, device)
    return [
        ("forward and backward pass", kept | passing | _passes(trace)),
        ("summing gradients", kept | gradients | {"gradients to be summed": bucket} | left),
        (
            "optimiser step",
            kept | gradients | step | _borrowed(optimiser, count, weights.largest) | left,
        ),
    ]


def _partly(
    weights: Weights,
    optimiser: Optimiser,
    trace: Trace,
    ranks: int,
    device: str,
    accumulates: bool,
    zero_stage: int,
) -> list[tuple[str, dict[str, float]]]:
    """ZeRO 1 and 2: whole weights in one flat tensor, the rest shared out."""
    count, width = weights.trained, weights.width
    share = -(-count // ranks)
    kept: dict[str, float] = {
        "weights": weights.all,
        "master weights (float32)": _MASTER * share,
        "optimiser states": optimiser.states * share,
    }
    filled = width * min(count, _BUCKET)
    bucket = {"gradients to be summed": float(filled if device == "cpu" else width * _BUCKET)}
    own = float(_MASTER * share if zero_stage == 2 else width * count)
    earlier = {"gradients": own if accumulates else 0.0}
    left = _left(trace, device)
    found = [
        ("forward and backward pass", kept | earlier | bucket | _passes(trace)),
        ("summing gradients", kept | {"gradients": own + earlier["gradients"]} | bucket | left),
        (
            "optimiser step",
            kept
            | {"gradients": own, "gradients in float32": float(_MASTER * share)}
            | _borrowed(optimiser, share, share)
            | left,
        ),
    ]
    if device == "cpu":  # on a GPU that has no room for both, this happens in main memory
        begun = {"master weights (float32)": float(_MASTER * share)}
        begun["weights"] = weights.all + width * count
        found.append(("starting the engine", begun))
    return found


def _sharded(
    weights: Weights, optimiser: Optimiser, trace: Trace, ranks: int, device: str
) -> list[tuple[str, dict[str, float]]]:
    """ZeRO 3: all of it shared out, weights gathered for the layers in use."""
    count, width = weights.trained, weights.width
    every = count + weights.frozen
    share = -(-count // ranks)
    group = min(share, _GROUP)
    kept: dict[str, float] = {
        "weights": width * -(-every // ranks),
        "master weights (float32)": _MASTER * share,
        "optimiser states": optimiser.states * share,
        "gradients": _MASTER * share,
    }
    filled = width * min(count, _BUCKET)
    kept["gradients to be summed"] = filled if device == "cpu" else width * _BUCKET
    if device == "cpu":
        kept["free, left by loading"] = _LEFT_BY_LOADING * weights.all
    gathered = {"weights of layers in use": float(width * min(every, _GROUP)) if ranks > 1 else 0.0}
    left = _left(trace, device)
    return [
        ("forward and backward pass", kept | gathered | _passes(trace)),
        (
            "optimiser step",
            kept
            | {"gradients in float32": float(_MASTER * group)}
            | _borrowed(optimiser, group, group)
            | left,
        ),
    ]

"""The head alone: ours next to full logits and the kernels others maintain.

``python -m benchmarks.head``: a loss on the log-probs of T tokens and its gradient in hidden states
and weight, each token with a factor of its own. Ours is told the loss, for examples of 256 tokens,
or gives log-probs that wait for their gradient. Next to it: all logits at once;
`torch.nn.functional.linear_cross_entropy` in chunks; and, where they are installed and the device
is CUDA, Liger and cut cross-entropy, which are Triton kernels. Medians over rounds in which each
has its turn; `error` is the relative error of the weight's gradient against float64.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.measure import CORES, refuse_busy, timed
from benchmarks.yardsticks import Size
from spin_train.model.head import chunked_loss, chunked_token_logps

TOKENS = (1024, 4096)
ROUNDS = 5
EXAMPLE = 256  # tokens
Head = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From hidden states (T, W), targets (T,) and factors (T,) on their log-probs to the loss."""


def heads(model: Any) -> dict[str, Head]:
    """Ways to make the loss that are available here.

    Parameters
    ----------
    model : PreTrainedModel
        Whose head it is.

    Returns
    -------
    dict
        Name to function.
    """
    weight = model.get_output_embeddings().weight

    def told(hidden: Tensor, targets: Tensor, factors: Tensor) -> Tensor:
        def loss(logps: Tensor, run: slice) -> Tensor:
            return (logps * factors[run.start * EXAMPLE : run.stop * EXAMPLE]).sum()

        stops = range(EXAMPLE, len(targets) + 1, EXAMPLE)
        return chunked_loss(model, hidden, targets, stops, loss)

    def of(logps: Callable[[Tensor, Tensor], Tensor]) -> Head:
        return lambda hidden, targets, factors: (logps(hidden, targets) * factors).sum()

    ways: dict[str, Head] = {
        "ours": told,
        "ours, waiting": of(lambda hidden, targets: chunked_token_logps(model, hidden, targets)),
        "full logits": of(
            lambda hidden, targets: (
                -functional.cross_entropy((hidden @ weight.T).float(), targets, reduction="none")
            )
        ),
    }
    if hasattr(functional, "linear_cross_entropy"):  # torch 2.11 has none
        options = torch.nn.LinearCrossEntropyOptions()
        ways["torch's chunks"] = of(
            lambda hidden, targets: (
                -functional.linear_cross_entropy(
                    hidden, weight, targets, reduction="none", options=options
                )
            )
        )
    if weight.is_cuda:
        try:
            from cut_cross_entropy import linear_cross_entropy

            ways["cut cross-entropy"] = of(
                lambda hidden, targets: (
                    -linear_cross_entropy(
                        hidden, weight, targets, reduction="none", filter_eps=None
                    )
                )
            )
        except ImportError:
            print("cut cross-entropy: not installed", file=sys.stderr)
        try:
            from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

            liger = LigerFusedLinearCrossEntropyLoss(reduction="none")
            ways["Liger"] = of(lambda hidden, targets: -liger(weight, hidden, targets))
        except ImportError:
            print("Liger: not installed", file=sys.stderr)
    return ways


def compare(size: Size, dtype: torch.dtype, tokens: int, *, device: str, rounds: int) -> list[str]:
    """Time every way on one draw of hidden states.

    Parameters
    ----------
    size : Size
        The model.
    dtype : torch.dtype
        Of hidden states and weight.
    tokens : int
        T.
    device : str
        Where.
    rounds : int
        Turns of each; one more goes before.

    Returns
    -------
    list of str
        Rows of a Markdown table.
    """
    model = size.build(dtype, device)
    weight = model.get_output_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, size.width, generator=generator).to(device, dtype)
    hidden.requires_grad_()
    targets = torch.randint(size.vocabulary, (tokens,), generator=generator).to(device)
    factors = torch.randn(tokens, generator=generator).to(device)
    expected = _exact_gradient(hidden, weight, targets, factors)
    seconds: dict[str, list[float]] = {}
    errors = {}
    ways = heads(model)
    for _ in range(rounds + 1):
        for name, way in ways.items():
            hidden.grad = weight.grad = None

            def step(way: Head = way) -> None:
                way(hidden, targets, factors).backward()  # type: ignore[no-untyped-call]

            seconds.setdefault(name, []).append(timed(step))
            errors[name] = ((weight.grad - expected).norm() / expected.norm()).item()
    ours = statistics.median(seconds["ours"][1:])
    return [
        f"| {str(dtype).removeprefix('torch.')} | {tokens} | {name} | {median:.3f} "
        f"| {median / ours:.2f} | {errors[name]:.1e} |"
        for name, taken in seconds.items()
        for median in [statistics.median(taken[1:])]
    ]


def _exact_gradient(hidden: Tensor, weight: Tensor, targets: Tensor, factors: Tensor) -> Tensor:
    """Of the weight, in float64: sum over tokens of factor (onehot - p) h."""
    total = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
    wide = weight.detach().double()
    for states, wanted, factor in zip(
        *(x.detach().split(512) for x in (hidden, targets, factors)),  # type: ignore[no-untyped-call]
        strict=True,
    ):
        slopes = -torch.softmax(states.double() @ wide.T, -1)
        slopes[torch.arange(len(wanted)), wanted] += 1
        total += (slopes * factor[:, None]).T @ states.double()
    return total


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--gpu", action="store_true", help="a head of 1B class on CUDA")
    parser.add_argument("--busy", action="store_true", help="measure although others are working")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each way")
    arguments = parser.parse_args()
    refuse_busy(allowed=arguments.busy or arguments.gpu)
    torch.set_num_threads(CORES)
    size, device, dtypes = Size(), "cpu", [torch.float32, torch.bfloat16]
    if arguments.gpu:
        size, device, dtypes = Size(2048, layers=1, vocabulary=128_256), "cuda", [torch.bfloat16]
    print(
        f"width {size.width}, vocabulary {size.vocabulary}, {device}, torch {torch.__version__}\n"
    )
    print("\n| type | tokens | way | s | over ours | error |\n|---|---|---|---|---|---|")
    for dtype in dtypes:
        for tokens in TOKENS:
            rows = compare(size, dtype, tokens, device=device, rounds=arguments.rounds)
            print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()

"""What summing the gradients of micro-batches costs in bfloat16, and in float32.

``python -m benchmarks.gradient_sums`` gives DeepSpeed 64 micro-batches of a small Llama in
bfloat16, with the settings of a training stage. It compares the gradient before the step with those
of the same micro-batches summed in float64, and with the gradient in float32 of the same weights.
Errors are relative, in the Euclidean norm over all weights. One process, half a minute.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
from typing import Any

import torch
from torch import Tensor

MICRO_BATCHES = 64
TOKENS = 32
_MARK = "errors: "


def errors(zero_stage: int, sums: str | None) -> dict[str, float]:
    """Measure in a process of its own.

    Parameters
    ----------
    zero_stage : int
        ZeRO stage of the engine.
    sums : {'bf16', 'fp32'} or None
        DeepSpeed's ``grad_accum_dtype``; None takes what a run takes.

    Returns
    -------
    dict of str to float
        `added`, to the sum in float64 of the same gradients; `all`, to the gradient in float32.
    """
    chosen = {"data_types": {"grad_accum_dtype": sums}} if sums else {}
    command = [sys.executable, "-m", "benchmarks.gradient_sums", "--alone", str(zero_stage)]
    environment = os.environ | {
        "DS_ACCELERATOR": "cpu",
        **{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"},
        "MASTER_PORT": "0",
    }
    done = subprocess.run(
        [*command, json.dumps(chosen)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if not lines:
        sys.exit(done.stderr[-2000:])
    found: dict[str, float] = json.loads(lines[-1].removeprefix(_MARK))
    return found


def _measure(zero_stage: Any, further: dict[str, Any]) -> dict[str, float]:
    import deepspeed
    from deepspeed.utils import safe_get_full_grad
    from transformers import LlamaConfig, LlamaForCausalLM

    from spin_train.config.engine import engine_settings

    torch.manual_seed(0)
    sizes: Any = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 128}
    layers: Any = {"num_hidden_layers": 2, "num_attention_heads": 4}
    made: Any = LlamaForCausalLM(LlamaConfig(**sizes, **layers))
    model = made.to(torch.bfloat16)
    rows = torch.randint(0, 256, (MICRO_BATCHES, 1, TOKENS))
    exact = _summed(copy.deepcopy(model), rows)
    true = _summed(copy.deepcopy(model).float(), rows)
    settings = engine_settings(zero_stage, dtype="bfloat16", further=further) | {
        "train_batch_size": MICRO_BATCHES,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": MICRO_BATCHES,
        "gradient_clipping": 0.0,
        "bf16": {"enabled": True},
    }
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-6)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimiser, config=settings)
    for number, row in enumerate(rows, 1):
        engine.backward(engine(input_ids=row, labels=row).loss)
        if number < MICRO_BATCHES:  # the last one would let the gradients go
            engine.step()
    found = [safe_get_full_grad(parameter).double() for parameter in engine.module.parameters()]
    return {"added": _apart(found, exact), "all": _apart(found, true)}


def _summed(model: Any, rows: Tensor) -> list[Tensor]:
    """Give the mean of the gradients of all rows, each as the model computes it, in float64."""
    total = [torch.zeros_like(each, dtype=torch.float64) for each in model.parameters()]
    for row in rows:
        model.zero_grad()
        model(input_ids=row, labels=row).loss.backward()
        for kept, parameter in zip(total, model.parameters(), strict=True):
            kept += parameter.grad.double() / len(rows)
    return total


def _apart(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Relative distance over all weights."""
    pairs = list(zip(found, wanted, strict=True))
    off = sum(float((a - b).square().sum()) for a, b in pairs)
    return float((off / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        stage, further = arguments.alone
        print(_MARK + json.dumps(_measure(int(stage), json.loads(further))))
        return
    print("| ZeRO | summed in | error of summing | error, all |")
    print("|---|---|---|---|")
    for stage in (0, 1, 2, 3):
        for sums in ("bf16", None) if stage >= 2 else (None,):
            found = errors(stage, sums)
            name = "float32" if stage >= 2 and sums is None else "bfloat16"
            print(f"| {stage} | {name} | {found['added']:.1e} | {found['all']:.1e} |")


if __name__ == "__main__":
    main()

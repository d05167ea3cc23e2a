"""Settings that fail only when they are built or step fail before anything is sampled."""

import json
import subprocess
import sys

import pytest

from spin_train.config.sections import TrainingConfig
from spin_train.driver.launch import worker_environment
from spin_train.stages.rehearsal import needs_rehearsal

pytestmark = pytest.mark.process

RIGHT = [
    ["training.optim=adamw_torch", "training.adam_beta1=0.8"],
    ["training.lr_scheduler_type=cosine", "zero_stage=3"],
    ["training.lr_scheduler_type=linear", "training.optim=adafactor"],
]  # fmt: skip
WRONG = {
    "bitsandbytes": ["training.optim=adamw_bnb_8bit"],
    "galore_torch": ["training.optim=galore_adamw"],
    "min_lr": ["training.lr_scheduler_type=cosine_with_min_lr"],
    "num_decay_steps": ["training.lr_scheduler_type=warmup_stable_decay"],
    "eval strategy": ["training.lr_scheduler_type=reduce_lr_on_plateau"],
    "lr_end": ["training.lr_scheduler_type=polynomial", "learning_rate=5e-8", "zero_stage=0"],
    "defaults": ["training.lr_scheduler_type=polynomial"],  # DeepSpeed's ZeRO optimiser has none
    "remove training.adam_beta1": ["training.adam_beta1=0.8"],
    "remove training.optim_args": ["training.optim=adamw_torch", "training.optim_args=nu=1"],
    "remove training.lr_scheduler_kwargs": [
        "training.lr_scheduler_type=constant",
        "training.lr_scheduler_kwargs.min_lr=1e-8",
    ],
}
"""What the message names, and settings that it is about."""

REHEARSALS = """
import json, sys
from pathlib import Path
from spin_train.config.files import override, parse_config
from spin_train.errors import UserError
from spin_train.stages.rehearsal import rehearse
from spin_train.system.ranks import Ranks

ranks = Ranks(Path("no stop request"))
for overrides in json.loads(sys.argv[1]):
    content = {"model": "m", "data": {"path": "d.jsonl"}, "output_dir": "o"}
    override(content, overrides)
    try:
        rehearse(parse_config(content), ranks)
        print("SAID", json.dumps(""), flush=True)
    except UserError as error:
        print("SAID", json.dumps(str(error)), flush=True)
"""


@pytest.fixture(scope="module")
def said():
    """What each rehearsal said, all in one process as a worker is one."""
    settings = [*RIGHT, *WRONG.values()]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
    alone |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", REHEARSALS, json.dumps(settings)],
        env={**worker_environment(1), **alone, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("SAID")]
    assert len(lines) == len(settings), done.stderr[-3000:]
    return dict(zip(map(str, settings), (json.loads(line[5:]) for line in lines), strict=True))


@pytest.mark.parametrize("settings", RIGHT, ids=str)
def test_settings_that_train_pass(said, settings):
    assert said[str(settings)] == ""


@pytest.mark.parametrize("name", WRONG)
def test_settings_that_cannot_train_are_named(said, name):
    assert name in said[str(WRONG[name])]
    assert said[str(WRONG[name])].count("\n") == 0


def test_the_defaults_need_no_rehearsal():
    assert not needs_rehearsal(TrainingConfig(batch_size=4, warmup_steps=0, logging_steps=1))
    assert needs_rehearsal(TrainingConfig(optim="adamw_torch"))
    assert needs_rehearsal(TrainingConfig(adam_beta1=0.5))

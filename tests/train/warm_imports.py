"""What `tests.train.warm` imports before it forks: all that a run does, as a worker would."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import deepspeed  # noqa: E402, F401
import peft  # noqa: E402, F401
import transformers  # noqa: E402, F401

import spin_train.cli  # noqa: E402
import spin_train.driver.memory  # noqa: E402
import spin_train.driver.selfplay  # noqa: E402
import spin_train.driver.worker  # noqa: E402
import spin_train.stages.rehearsal  # noqa: E402
import spin_train.stages.table  # noqa: E402
import spin_train.stages.work  # noqa: E402, F401

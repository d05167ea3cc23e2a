"""What `tests.train.warm` imports before it forks: all that a run does, as a worker would."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import deepspeed  # noqa: F401
import peft  # noqa: F401
import transformers  # noqa: F401

import spin_train.cli
import spin_train.driver.memory
import spin_train.driver.selfplay
import spin_train.driver.worker
import spin_train.stages.rehearsal
import spin_train.stages.table
import spin_train.stages.work  # noqa: F401

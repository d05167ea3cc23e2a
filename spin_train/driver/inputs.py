"""What a run reads and runs on, looked at before the workers start, which takes seconds."""

import logging
import os
from pathlib import Path

from spin_train.config.schema import Config
from spin_train.data.sources import names_a_file
from spin_train.errors import UserError
from spin_train.system.processes import cpu_only

__all__ = ["require_inputs", "warn_of_crowding"]

_LOG = logging.getLogger(__name__)


def require_inputs(config: Config) -> None:
    """Raise `UserError` if the model or the data are named by a path where nothing lies."""
    model, data = Path(config.model), Path(config.data.path)
    # A name on the hub has one slash at most.
    local = config.model.startswith(("/", "./", "../")) or config.model.count("/") > 1
    if local and not model.exists():
        raise UserError(f"model: there is no directory {model}")
    if names_a_file(data) and not data.exists():
        raise UserError(f"no data file at {data}; correct data.path")


def warn_of_crowding(ranks: int) -> None:
    """Say so if there are more ranks than cores: they wait for each other."""
    cores = len(os.sched_getaffinity(0))
    if cpu_only() and ranks > cores:
        _LOG.warning("ranks: %d ranks share %d cores; ranks=%d is faster", ranks, cores, cores)

"""How a worker communicates with the other workers and the driver."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from spin_train.errors import StoppedError, UserError
from spin_train.system.board import Board
from spin_train.system.processes import unlink_shared_memory

__all__ = ["Ranks"]


class Ranks:
    """The worker processes of a run, seen from one of them.

    Control messages go through a gloo group of their own, on the CPU, so that they never wait for a
    device. `stop_request` is the file by which the driver asks to stop, and `board` is where ranks
    of several nodes claim work and announce files.
    """

    def __init__(self, stop_request: Path, board: Board | None = None) -> None:
        import deepspeed  # so that this module imports where DeepSpeed does not install

        on_cpu = not torch.cuda.is_available()
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if not on_cpu:
            _require_device(local_rank)
            torch.cuda.set_device(local_rank)
        # A rank may sample for hours while another waits.
        timeout = timedelta(hours=12)
        deepspeed.init_distributed(
            dist_backend="gloo" if on_cpu else "nccl", timeout=timeout, verbose=False
        )
        self._group = dist.new_group(backend="gloo", timeout=timeout)
        self.barrier()  # every rank has mapped the others' buffers, so their names can go
        unlink_shared_memory()
        self._stop_request = stop_request
        self.board = board
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self.device = torch.device("cpu" if on_cpu else f"cuda:{local_rank}")

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        dist.barrier(group=self._group)

    def from_first(self, value: Any) -> Any:
        """Give rank 0's value to every rank; it must pickle."""
        holder = [value]
        dist.broadcast_object_list(holder, src=0, group=self._group)
        return holder[0]

    def gather(self, value: Any) -> list[Any]:
        """Give every rank's value to every rank, in the order of ranks."""
        holder: list[Any] = [None] * self.size
        dist.all_gather_object(holder, value, group=self._group)
        return holder

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum CPU tensors of one shape over ranks; every rank gets the sum."""
        total = values.clone()
        dist.all_reduce(total, group=self._group)
        return total

    def stop_requested(self) -> bool:
        """Say whether the driver asked to stop; all ranks get the same answer at the same call."""
        flag = torch.tensor(float(self._stop_request.exists()))
        return self.sum(flag).item() > 0

    def anyone(self, has_work: bool) -> bool:
        """Say whether any rank has work left; all ranks get the same answer at the same call.

        StoppedError, on all of them, if the driver asked to stop.
        """
        flags = torch.tensor([float(has_work), float(self._stop_request.exists())])
        working, stopping = self.sum(flags).tolist()
        if stopping > 0:
            raise StoppedError
        return bool(working > 0)

    def raise_if_stopping(self) -> None:
        """Raise StoppedError if the driver asked to stop; for stages that are always whole."""
        if self._stop_request.exists():
            raise StoppedError


def _require_device(local_rank: int) -> None:
    """Refuse (UserError) more ranks on a machine than it has devices: they would share one."""
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UserError(
            f"local rank {local_rank} has no device of its own: this machine shows {count}; start "
            f"{count} ranks (ranks={count}, or that many for a launcher), or correct "
            "CUDA_VISIBLE_DEVICES"
        )

"""Tables are small: a second thread costs more than it brings, above all on a busy machine.

Most of them are too small for torch to share out at all. `OMP_NUM_THREADS` asks for more threads
all the same: sums over large tables then have another order.
"""

import os

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _few_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    yield
    torch.set_num_threads(threads)

"""The memory of known devices, and of this machine."""

from dataclasses import dataclass

from spin_train.driver.memory import machine_memory
from spin_train.errors import UserError
from spin_train.system.processes import cpu_only

__all__ = ["DEVICES", "GIB", "Device", "device_here", "device_named"]

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """What one rank computes on."""

    name: str
    """As it is written on the command line."""
    kind: str
    """`cpu` or `cuda`."""
    memory: int
    """Bytes that programs can have; of a CPU, the machine's, which its ranks share."""


# As torch reports them, rounded down: a part of what the box says is the driver's own.
_MEMORY_GIB = {
    "B200": 178.0,
    "H200": 139.0,
    "H100-80GB": 79.0,
    "A100-80GB": 79.0,
    "A100-40GB": 39.3,
    "A6000": 47.4,
    "L40S": 44.3,
    "RTX5090": 31.3,
    "RTX4090": 23.5,
    "RTX3090": 23.5,
    "L4": 22.0,
    "T4": 14.5,
}
DEVICES = {name: Device(name, "cuda", int(memory * GIB)) for name, memory in _MEMORY_GIB.items()}
"""Known GPUs by name."""


def device_named(name: str) -> Device:
    """Device of the command line: a known GPU, `cpu`, or its memory, such as ``24GiB``."""
    known = {_plain(each): device for each, device in DEVICES.items()}
    plain = _plain(name)
    if plain == "cpu":
        return Device("cpu", "cpu", machine_memory())
    if plain in known:
        return known[plain]
    begun = [each for each in known if each.startswith(plain)]
    if len(begun) == 1:
        return known[begun[0]]
    for unit, size in (("gib", GIB), ("gb", 10**9)):
        try:
            return Device(name, "cuda", int(float(plain.removesuffix(unit)) * size))
        except ValueError:
            continue
    raise UserError(
        f"--device {name}: give cpu, the memory of a GPU such as 24GiB, or one of "
        f"{', '.join(DEVICES)}"
    )


def device_here() -> Device:
    """Name what a run would compute on, on this machine."""
    if cpu_only():
        return device_named("cpu")
    import torch

    if not torch.cuda.is_available():
        return device_named("cpu")
    found = torch.cuda.get_device_properties(0)
    return Device(found.name, "cuda", int(found.total_memory))


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum() or letter == ".")

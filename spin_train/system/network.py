"""Which network interface leads to the other nodes of a job.

Gloo takes the interface that the host's own name leads to, and on many machines that is the
loopback, where no other node can reach it.
"""

import socket

__all__ = ["interface_of", "own_address_towards"]


def own_address_towards(host: str) -> str:
    """Address from which this machine would talk to a host; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        address: str = probe.getsockname()[0]
        return address


def interface_of(address: str) -> str | None:
    """Name of the interface of this machine that has an address; None if none has it.

    Examples
    --------
    >>> interface_of("127.0.0.1"), interface_of("192.0.2.1")  # the latter is nobody's (RFC 5737)
    ('lo', None)
    """
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address == address for found in addresses):
            return str(name)
    return None

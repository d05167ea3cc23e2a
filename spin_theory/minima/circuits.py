"""Laplacian systems solved without a subtraction, however far apart their weights are."""

import torch
from torch import Tensor

__all__ = ["potentials"]

LARGEST_VOLTAGE = 1e100  # of an edge: a step this long is cut down anyway, and infinity gives nan


def potentials(log_weights: Tensor, voltages: Tensor) -> Tensor:
    r"""Potentials of a circuit: the scores whose differences answer the sources on its edges.

    Parameters
    ----------
    log_weights : Tensor, shape (A, Y, Y)
        Log of the conductances :math:`c_{ij}`, in nats, symmetric; minus infinity where there is
        no edge. The diagonal is not read.
    voltages : Tensor, shape (A, Y, Y)
        :math:`E_{ij}`, antisymmetric, no unit: what would be :math:`x_i - x_j` if the edge stood
        alone.

    Returns
    -------
    Tensor, shape (A, Y)
        x of :math:`\sum_j c_{ij} (x_i - x_j - E_{ij}) = 0` for all i; per connected part the
        response with the largest index is 0.

    Notes
    -----
    Star-mesh elimination, response by response: the edge ij with the path i-k-j becomes one edge,
    whose conductance is the sum of both and whose voltage their mean, weighted by conductance. Only
    sums of positive numbers and convex combinations occur, as in the elimination of Grassmann,
    Taksar and Heyman (1985), so each difference is right to rounding of the voltages, also
    between two parts that hang together by a 1e-60th of what holds each together.

    Examples
    --------
    >>> log_weights = torch.zeros(1, 2, 2, dtype=torch.float64)
    >>> voltages = torch.tensor([[[0.0, 3.0], [-3.0, 0.0]]], dtype=torch.float64)
    >>> potentials(log_weights, voltages).tolist()
    [[3.0, 0.0]]
    """
    kept = log_weights.clone()
    sources = voltages.clamp(-LARGEST_VOLTAGE, LARGEST_VOLTAGE)
    responses = kept.shape[-1]
    paths = []
    for k in range(responses - 1):
        edges, volts = kept[:, k, k + 1 :], sources[:, k, k + 1 :]  # (A, R)
        total = torch.logsumexp(edges, dim=-1, keepdim=True)
        total = torch.where(total.isfinite(), total, 0.0)  # a response without an edge left
        paths.append(((edges - total).exp(), volts))
        rest, rest_volts = kept[:, k + 1 :, k + 1 :], sources[:, k + 1 :, k + 1 :]
        path = edges[:, :, None] + (edges - total)[:, None, :]
        both = torch.logaddexp(rest, path)
        # Both shares by themselves: 1 - share has no digits where the path is nearly everything.
        share, rest_share = (
            torch.where(both.isfinite(), (part - both).exp(), 0.0) for part in (path, rest)
        )
        detour = volts[:, None, :] - volts[:, :, None]  # E_ik + E_kj
        kept[:, k + 1 :, k + 1 :] = both
        sources[:, k + 1 :, k + 1 :] = share * detour + rest_share * rest_volts
    solution = sources.new_zeros(kept.shape[:-1])
    for k in reversed(range(responses - 1)):
        shares, volts = paths[k]
        solution[:, k] = (shares * (solution[:, k + 1 :] + volts)).sum(dim=-1)
    return solution

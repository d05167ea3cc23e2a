r"""The least expected hinge for any weights of pairs, exactly, in whole numbers.

:math:`\sum_{ij} W_{ij} \max(0, 1 - f_i + f_j)` is a sum of convex functions of differences with
kinks at whole numbers. From f = 0 a steepest descent therefore reaches the minimum: as long as some
set S of responses makes the sum smaller by being raised by 1, the best such set is raised. It is a
minimum cut. The weights are floats, which are whole numbers of some power of 2, so nothing is
rounded and no tolerance decides, whatever their range.
"""

import math
from collections import deque
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["largest_circulation", "whole_numbers"]

Matrix = NDArray[np.float64]

MOST_BITS = 20_000
"""Of the range of the weights: about 14,000 nats between the largest and the smallest."""

# log 2 in two parts; the first has so few digits that its multiples are exact.
_LOG_2 = (0.693147180369123816490, 1.90821492927058770002e-10)


def whole_numbers(logs: Matrix) -> tuple[list[list[int]], int]:
    """Turn logarithms into whole numbers with a common power of 2.

    Parameters
    ----------
    logs : ndarray, shape (N, M)
        In nats; minus infinity becomes 0.

    Returns
    -------
    numbers : list of list of int
        The exponentials times 2 to the power of `shift`, to a relative 2^-52.
    shift : int
        That power.

    Raises
    ------
    ValueError
        If the exponentials span more than `MOST_BITS` powers of 2.

    Examples
    --------
    >>> numbers, shift = whole_numbers(np.log([[0.5, 2.0]]))
    >>> numbers[0][1] / numbers[0][0], numbers[0][0] / 2**shift
    (4.0, 0.5)
    """
    halvings = np.where(np.isfinite(logs), np.round(-logs / math.log(2)), 0.0)
    counted = halvings[np.isfinite(logs)]
    most = int(counted.max(initial=0.0))
    if most - int(counted.min(initial=most)) > MOST_BITS:
        raise ValueError(
            f"the weights of the hinge span more than {MOST_BITS} powers of 2, too many to "
            "compare: let the probabilities be less far apart"
        )
    numbers = [
        [
            0
            if value == -math.inf
            else int(math.exp(math.fsum((value, *(count * part for part in _LOG_2)))) * 2.0**53)
            << (most - int(count))
            for value, count in zip(row, counts, strict=True)
        ]
        for row, counts in zip(logs.tolist(), halvings.tolist(), strict=True)
    ]
    return numbers, most + 53


def largest_circulation(log_weights: Matrix) -> tuple[Matrix, Matrix]:
    r"""Minimise an expected hinge, and find the circulation that proves the minimum.

    Parameters
    ----------
    log_weights : ndarray, shape (Y, Y)
        Log of the weight :math:`W_{ij}` of the margin :math:`f_i - f_j`, in nats.

    Returns
    -------
    scores : ndarray, shape (Y,)
        The least of the minimising whole numbers from 0.
    flows : ndarray, shape (Y, Y)
        A circulation :math:`0 \le x \le W` with x = W where the margin is below 1, and x = 0 where
        it is above.

    Raises
    ------
    ValueError
        As :func:`whole_numbers`.

    Examples
    --------
    >>> scores, flows = largest_circulation(np.log([[0.18, 0.72], [0.02, 0.08]]))
    >>> scores, flows.sum()  # 0.18 + 0.08, and 0.02 back and forth
    (array([1., 0.]), np.float64(0.3))
    """
    numbers, shift = whole_numbers(log_weights)
    responses = range(len(numbers))
    scores = [0 for _ in responses]
    while True:
        # Raising S changes the sum by its surpluses, and by W_ij of each pair at the kink with j
        # in S and i not.
        surplus = [
            sum(numbers[i][k] for i in responses if i != k and scores[i] <= scores[k])
            - sum(numbers[k][j] for j in responses if j != k and scores[k] <= scores[j])
            for k in responses
        ]
        edges = {
            (j, i): numbers[i][j]
            for i in responses
            for j in responses
            if scores[i] - scores[j] == 1 and numbers[i][j] > 0
        }
        raised, carried = _least_cut(surplus, edges)
        if not raised:
            break
        for k in raised:
            scores[k] += 1
    flows = [
        [numbers[i][j] if scores[i] <= scores[j] else carried.get((j, i), 0) for j in responses]
        for i in responses
    ]
    least = min(scores)
    return (
        np.array([score - least for score in scores], dtype=np.float64),
        np.array([[_ratio(flow, shift) for flow in row] for row in flows], dtype=np.float64),
    )


def _ratio(number: int, shift: int) -> float:
    """Divide a whole number by 2 to the power of `shift`, correctly rounded."""
    return number / (1 << shift)


def _least_cut(
    surplus: list[int], edges: dict[tuple[int, int], int]
) -> tuple[set[int], dict[tuple[int, int], int]]:
    """Find the smallest S of least surplus(S) + capacity of edges out of S, and the flows.

    Dinic's algorithm, from the responses of negative surplus to those of positive surplus.
    """
    source, sink = len(surplus), len(surplus) + 1
    room: list[dict[int, int]] = [{} for _ in range(sink + 1)]
    capacities = dict(edges)
    for k, amount in enumerate(surplus):
        if amount != 0:
            capacities[(source, k) if amount < 0 else (k, sink)] = abs(amount)
    for (tail, head), capacity in capacities.items():
        room[tail][head] = room[tail].get(head, 0) + capacity
        room[head].setdefault(tail, 0)
    while True:
        levels = _levels(room, source)
        if sink not in levels:
            break
        _fill(room, levels, source, sink)
    raised = set(levels) - {source}
    return raised, {
        edge: max(0, capacity - room[edge[0]][edge[1]]) for edge, capacity in edges.items()
    }


def _levels(room: list[dict[int, int]], source: int) -> dict[int, int]:
    """Count the edges from the source to everything that it can still send to."""
    levels, queue = {source: 0}, deque([source])
    while queue:
        node = queue.popleft()
        for other, left in room[node].items():
            if left > 0 and other not in levels:
                levels[other] = levels[node] + 1
                queue.append(other)
    return levels


def _fill(room: list[dict[int, int]], levels: dict[int, int], source: int, sink: int) -> None:
    """Send along shortest paths until each has a full edge."""
    others = {node: list(room[node]) for node in levels}
    place = dict.fromkeys(levels, 0)  # how many of the others lead nowhere any more
    path = [source]
    while path:
        node = path[-1]
        if node == sink:
            steps = list(pairwise(path))
            amount = min(room[tail][head] for tail, head in steps)
            for tail, head in steps:
                room[tail][head] -= amount
                room[head][tail] += amount
            full = next(k for k, (tail, head) in enumerate(steps) if room[tail][head] == 0)
            path = path[: full + 1]
        elif place[node] == len(others[node]):
            path.pop()
            if path:
                place[path[-1]] += 1
        else:
            other = others[node][place[node]]
            if room[node][other] > 0 and levels.get(other) == levels[node] + 1:
                path.append(other)
            else:
                place[node] += 1

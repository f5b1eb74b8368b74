"""How deep each module's auxiliary network is, and which later layers it is shaped like (AugLocal)."""

from __future__ import annotations


def pyramid(depth: int, modules: int, decay: float) -> list[int]:
    """Hidden layers of the auxiliary networks of modules 0 ... K-2, from `depth` (d) in the paper's counting.

    With a = d - 1 and K modules, a_i = max(1, round(a (1 - i tau / (K - 2)) + i tau / (K - 2))): linear from a
    to a (1 - tau) + tau. AugLocal eq. 3 as its code computes it; ties round to even.

    Raises:
        ZeroDivisionError: for K = 2 with decay > 0, where the line has one point.
    """
    a = depth - 1
    if decay == 0:
        return [a] * (modules - 1)
    fractions = (i * decay / (modules - 2) for i in range(modules - 1))
    return [max(1, round(a * (1 - f) + f)) for f in fractions]


def uniform(layer: int, layers: int, count: int) -> list[int]:
    """`count` layers spread evenly over those after `layer`, the last always among them.

    Indices s_i = round(l + (L - l - 1) / a * i), i = 1 ... a, from 0, ties to even; all later layers where
    there are no more than a. AugLocal, Figure 2.
    """
    later = layers - 1 - layer
    if count >= later:
        return list(range(layer + 1, layers))
    return [round(layer + later / count * i) for i in range(1, count + 1)]


def sequential(layer: int, layers: int, count: int) -> list[int]:
    """The `count` layers right after `layer`, or fewer where there are not so many."""
    return list(range(layer + 1, min(layer + count, layers - 1) + 1))

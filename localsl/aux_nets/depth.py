"""The depth of each module's auxiliary network, and the later layers that it resembles (AugLocal)."""

from __future__ import annotations


def pyramid(depth: int, modules: int, decay: float) -> list[int]:
    """The numbers of hidden layers of the auxiliary networks of modules 0 ... K-2, without their classifiers.

    AugLocal, eq. 3, as its code computes it. With a = d - 1, `modules` K and `decay` tau, the number is
    a_i = max(1, round(a (1 - i tau / (K - 2)) + i tau / (K - 2))), linear from a to a (1 - tau) + tau; ties round
    to even.

    Args:
        depth: d, the trainable layers of the first module's network, its classifier included.

    Raises:
        ZeroDivisionError: for K = 2 with decay > 0, where there is one network and no slope.
    """
    a = depth - 1
    if decay == 0:
        return [a] * (modules - 1)
    fractions = (i * decay / (modules - 2) for i in range(modules - 1))
    return [max(1, round(a * (1 - f) + f)) for f in fractions]


def uniform(layer: int, layers: int, count: int) -> list[int]:
    """The indices of `count` layers spread evenly over those after `layer`, including the last (AugLocal, Figure 2).

    For layer l of L, counted from 0, and a layers to select, s_i = round(l + (L - l - 1) / a * i), i = 1 ... a; ties
    round to even. If there are at most a later layers, all of them are selected.
    """
    later = layers - 1 - layer
    if count >= later:
        return list(range(layer + 1, layers))
    return [round(layer + later / count * i) for i in range(1, count + 1)]


def sequential(layer: int, layers: int, count: int) -> list[int]:
    """The indices of the `count` layers right after `layer`, or of all later layers if there are fewer."""
    return list(range(layer + 1, min(layer + count, layers - 1) + 1))

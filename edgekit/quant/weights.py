"""Scales of weights, per output channel and symmetric, and their rounding.

A scale is as small as its bound allows. Three bounds are known: the integers' own, a narrower one of seven bits, and
the pair bound. x86 CPUs without VNNI multiply uint8 by int8 in pairs of adjacent inputs and add the two products in 16
bits, saturating: 255 * (|q1| + |q2|) must not exceed 32,767, so integers of one sign in a pair must not add up to more
than 128. Seven bits keep every pair below that; the pair bound only the pairs that need it, per channel, and costs less
precision.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Bound = Literal["full", "seven-bit", "pairs"]

LIMITS: dict[Bound, int] = {"full": 127, "seven-bit": 64, "pairs": 127}
PAIR_LIMIT = 128
"""Largest sum of two adjacent integers of one sign: 255 * 128 = 32,640 fits 16 bits, 255 * 129 does not."""

WEIGHT_METHODS = ("mse", "max")
"""How a channel's scale is chosen: of least squared error, or the smallest at which nothing is clipped."""

SHRINK = np.linspace(1.0, 0.5, 51)
"""Candidates of the search for the scale of least error, as factors on the bound."""


def bound_scales(weights: np.ndarray, bound: Bound) -> np.ndarray:
    """Returns the smallest scale of each channel at which nothing is clipped and the bound holds.

    Args:
        weights: (outputs, inputs), float.
        bound: which integers are allowed.

    Returns:
        float32, (outputs,), positive; 1 for a channel of zeros.
    """
    scales = np.abs(weights).max(axis=1, initial=0.0) / LIMITS[bound]
    if bound == "pairs":
        scales = np.maximum(scales, pair_sums(weights).max(axis=1, initial=0.0) / PAIR_LIMIT)
    return np.where(scales > 0, scales, 1.0).astype(np.float32)


def pair_sums(weights: np.ndarray) -> np.ndarray:
    """Returns the magnitude that two adjacent inputs of one sign add up to, 0 for pairs of opposite signs.

    Args:
        weights: (outputs, inputs), floats or integers; an odd last input pairs with zero.

    Returns:
        (outputs, pairs), of the weights' own type.
    """
    even, odd = weights[:, 0::2], weights[:, 1::2]
    if odd.shape[1] < even.shape[1]:
        odd = np.concatenate([odd, np.zeros_like(even[:, :1])], axis=1)
    sums: np.ndarray = np.where(np.sign(even) * np.sign(odd) >= 0, np.abs(even) + np.abs(odd), 0)
    return sums


def scales_of(weights: np.ndarray, bound: Bound, method: str) -> np.ndarray:
    """Returns the scale of each channel by a method.

    Args:
        weights: (outputs, inputs), float.
        bound: which integers are allowed.
        method: one of WEIGHT_METHODS.

    Returns:
        float32, (outputs,), positive.
    """
    return {"mse": least_error_scales, "max": bound_scales}[method](weights, bound)


def least_error_scales(weights: np.ndarray, bound: Bound) -> np.ndarray:
    """Returns, for each channel, the scale of least squared rounding and clipping error among factors on its bound.

    Args:
        weights: (outputs, inputs), float.
        bound: which integers are allowed.

    Returns:
        float32, (outputs,), positive.

    Ref: Sung et al. 2015 (1511.06488), section 4, per channel.
    """
    widest = bound_scales(weights, bound)
    best, least = widest, squared_error(weights, widest, bound)
    for factor in SHRINK[1:]:
        scales = (widest * factor).astype(np.float32)
        error = squared_error(weights, scales, bound)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best


def squared_error(weights: np.ndarray, scales: np.ndarray, bound: Bound) -> np.ndarray:
    """Returns the squared error of each channel, (outputs,)."""
    restored = rounded(weights, scales, bound).astype(np.float32) * scales[:, None]
    error: np.ndarray = ((restored - weights) ** 2).sum(axis=1)
    return error


def rounded(weights: np.ndarray, scales: np.ndarray, bound: Bound) -> np.ndarray:
    """Rounds half to even and clips, then mends the pairs that break the pair bound.

    Rounding may push a pair past it by one or two, and a scale below the bound by more: the excess is taken from the
    larger of the two, which keeps most of its value.

    Args:
        weights: (outputs, inputs), float.
        scales: (outputs,).
        bound: which integers are allowed.

    Returns:
        int8, (outputs, inputs).
    """
    limit = LIMITS[bound]
    integers: np.ndarray = np.clip(np.round(weights / scales[:, None]), -limit, limit).astype(np.int64)
    if bound == "pairs":
        even, odd = integers[:, 0::2], integers[:, 1::2]
        excess = np.maximum(pair_sums(integers)[:, : odd.shape[1]] - PAIR_LIMIT, 0)
        first = even[:, : odd.shape[1]]
        take_first = np.abs(first) >= np.abs(odd)
        first -= np.where(take_first, excess, 0) * np.sign(first)
        odd -= np.where(take_first, 0, excess) * np.sign(odd)
    narrow: np.ndarray = integers.astype(np.int8)
    return narrow

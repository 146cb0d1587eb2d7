"""Softmax over the last axis, as the stages that kernels of it lower: the largest score, powers relative to it, their sum.

Subtracting the largest score keeps every power within [0, 1] and changes nothing: it cancels in the quotient. A kernel that
sees the scores piece by piece uses the same stages with the largest score so far, and weighs what it has by the power of the
old one when a larger is found ("Online normalizer calculation for softmax", arXiv 1805.02867).
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import te, tirx


@dataclass(frozen=True)
class Softmax:
    """softmax(score)[.., j] = power[.., j] / total[..]"""

    score: te.Tensor
    top: te.Tensor
    power: te.Tensor
    total: te.Tensor

    @staticmethod
    def of(score: te.Tensor) -> Softmax:
        """Of scores in float32; so are all stages."""
        *rows, size = score.shape
        j, k = te.reduce_axis((0, size), "j"), te.reduce_axis((0, size), "k")
        top = te.compute(tuple(rows), lambda *row: te.max(score[*row, j], j), "top")
        power = te.compute(score.shape, lambda *at: tirx.exp(score[at] - top[at[:-1]]), "power")
        total = te.compute(tuple(rows), lambda *row: te.sum(power[*row, k], k), "total")
        return Softmax(score, top, power, total)

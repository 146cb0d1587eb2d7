"""The losses of every stage and the accuracies they end at, as one picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

POINTS = 60  # of a line: means of as many steps as that takes


def drawn(runs: Sequence[Mapping[str, Sequence[float]]], accuracies: Mapping[str, Sequence[float]]) -> bytes:
    """An SVG: losses per stage and seed, and test accuracies per model and seed. The same numbers give the same bytes."""
    with plt.rc_context(
        {
            "svg.hashsalt": "distill",
            "svg.fonttype": "none",
            "font.size": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    ):
        figure, (labels, features, ends) = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
        for seed, losses in enumerate(runs):
            start = 0
            for colour, (stage, values) in enumerate(losses.items()):
                on_labels = stage in ("teacher", "scratch")
                axes, first = (labels, 0) if on_labels else (features, start)
                start += 0 if on_labels else len(values)
                x, y = _means(values, first)
                axes.plot(x, y, f"C{colour}", lw=0.8, alpha=0.8, label=stage if seed == 0 else None)
        for axes, title in ((labels, "cross entropy on labels"), (features, "distance from the teacher's features")):
            axes.set(yscale="log", xlabel="step", title=title)
            axes.legend(frameon=False)
        for row, values in enumerate(accuracies.values()):
            ends.plot([100 * v for v in values], [row] * len(values), "o", ms=4, color="C0", alpha=0.6)
            ends.plot(100 * sum(values) / len(values), row, "|", ms=14, color="black")
        ends.set_yticks(range(len(accuracies)), list(accuracies))
        ends.invert_yaxis()
        ends.set(xlabel="%", title="test accuracy: seeds, and their mean")
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
        plt.close(figure)
    return out.getvalue()


def _means(values: Sequence[float], first: int) -> tuple[list[float], list[float]]:
    size = -(-len(values) // POINTS)
    parts = [values[i : i + size] for i in range(0, len(values), size)]
    return [first + i * size + len(p) / 2 for i, p in enumerate(parts)], [sum(p) / len(p) for p in parts]

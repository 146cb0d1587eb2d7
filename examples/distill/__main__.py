"""Two-stage cross-operator distillation of attention into C-GSPN: `python examples/distill --help`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from treadle.errors import ArgumentError, ToolchainError, TreadleError
from treadle.settings import settings

try:
    import data
    import plot
    import state
    import torch
    from fit import Run
    from recipe import FULL, QUICK, Recipe
    from stages import accuracy, distilled, steps_of
except ModuleNotFoundError as wrong:
    needed = "torch, scikit-learn, matplotlib"
    hint = "pip install 'treadle[compiler,examples]'"
    sys.exit(f"error: {ToolchainError('this example', given=str(wrong), expected=needed, hint=hint)}")

#: torch's: the order of a sum hangs on how many threads share it, and at these sizes a second one saves no work.
THREADS = 1

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    seeds: Annotated[str, typer.Option(help="Numbers with commas between.")] = "0,1,2",
    out: Annotated[Path, typer.Option(help="Folder of checkpoints, results.json and losses.svg.")] = Path("build/distill"),
    quick: Annotated[bool, typer.Option(help="The whole path in seconds, too short to learn much.")] = False,
) -> None:
    """Teach a small vision transformer handwritten digits, distil it into C-GSPN, and raise the student's resolution.

    Started again, it goes on where it stopped, however that was.
    """
    chosen = _numbers(seeds)
    recipe = QUICK if quick else FULL
    torch.set_num_threads(THREADS)
    with state.held(out):
        found = {seed: trained for seed, trained in zip(chosen, _train(recipe, chosen, out), strict=True)}
        accuracies = {name: [found[s][0][name] for s in chosen] for name in found[chosen[0]][0]}
        result = {
            "recipe": asdict(recipe),
            "seeds": chosen,
            "test_images": data.TEST,
            "accuracy": accuracies,
            "mean": {name: sum(values) / len(values) for name, values in accuracies.items()},
            "final_loss": {stage: [found[s][1][stage][-1] for s in chosen] for stage in steps_of(recipe)},
        }
        state.write(out / "results.json", json.dumps(result, indent=1).encode())
        state.write(out / "losses.svg", plot.drawn([found[s][1] for s in chosen], accuracies))
    table = Table("model", *(f"seed {s}" for s in chosen), "mean", title=f"accuracy on {data.TEST} digits never trained on, %")
    for name, values in accuracies.items():
        table.add_row(name, *(f"{100 * v:.1f}" for v in [*values, result["mean"][name]]))
    console = Console()
    console.print(table)
    console.print(f"{out / 'results.json'}, {out / 'losses.svg'}")


def _train(recipe: Recipe, seeds: list[int], out: Path) -> list[tuple[dict[str, float], dict[str, list[float]]]]:
    """Of every seed: test accuracies by model, and losses by stage."""
    steps = steps_of(recipe)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    found = []
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=len(seeds) * sum(steps.values()))
        for at, seed in enumerate(seeds):
            before = {name: sum(list(steps.values())[:i]) for i, name in enumerate(steps)}

            def tell(stage: str, done: int, at: int = at, seed: int = seed, before: dict[str, int] = before) -> None:
                completed = at * sum(steps.values()) + before[stage] + done
                bar.update(task, description=f"seed {seed}: {stage}", completed=completed)

            folder = out / f"seed-{seed}"
            folder.mkdir(exist_ok=True)
            found.append(_trained(Run(recipe, seed, folder, tell)))
    return found


def _trained(run: Run) -> tuple[dict[str, float], dict[str, list[float]]]:
    """A student is also asked at the sides it was not raised to yet."""
    accuracies, losses, test = {}, {}, data.splits().test
    for name, model, side, values in distilled(run):
        losses[name] = values
        accuracies[f"{name}, {side} px"] = accuracy(model, test, side)
        if name in ("scratch", "stage 2"):
            for higher in run.recipe.raised:
                accuracies[f"{name}, as it is, {higher} px"] = accuracy(model, test, higher)
    return accuracies, losses


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(p.isascii() and p.isdigit() and int(p) < 1_000_000 for p in parts) or len(set(map(int, parts))) < len(parts):
        raise ArgumentError("--seeds", given=repr(text), expected="different numbers below 1,000,000, such as 0,1,2")
    return [int(p) for p in parts]


if __name__ == "__main__":
    try:
        app()
    except TreadleError as wrong:
        if settings.debug:
            raise
        print(f"error: {wrong}", file=sys.stderr)
        sys.exit(wrong.exit_code)

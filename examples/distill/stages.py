"""Teacher, student from scratch, and the stages of cross-operator distillation, each told as its loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import data
import torch
from fit import Run
from losses import distance, unlike
from model import Attention, Encoder, Propagation, Student, Tap, student_of
from recipe import Recipe
from torch import Tensor, nn
from torch.nn import functional as F

Model = Encoder | Student
Losses = dict[str, list[float]]


def steps_of(recipe: Recipe) -> dict[str, int]:
    """Of every stage of a seed, in order. A student from scratch has as many as both stages of the distilled one."""
    raised = {f"raised to {side}": recipe.raising for side in recipe.raised}
    scratch = recipe.sublayers + recipe.whole
    return {"teacher": recipe.teacher, "scratch": scratch, "stage 1": recipe.sublayers, "stage 2": recipe.whole, **raised}


def distilled(run: Run) -> Iterator[tuple[str, Model, int, list[float]]]:
    """Every stage's name, model, side and losses, as they come."""
    recipe, side, steps = run.recipe, run.recipe.side, steps_of(run.recipe)

    def at(name: str, make: Callable[[], Model]) -> Model:
        torch.manual_seed(1000 * run.seed + list(steps).index(name))
        return make()

    teacher = at("teacher", lambda: Encoder(recipe, Attention))
    yield "teacher", teacher, side, labelled(run, "teacher", teacher, steps["teacher"])

    scratch = at("scratch", lambda: Encoder(recipe, Propagation))
    yield "scratch", scratch, side, labelled(run, "scratch", scratch, steps["scratch"])

    _freeze(teacher)
    encoder = at("stage 1", lambda: student_of(recipe, teacher))
    yield "stage 1", encoder, side, sublayers(run, encoder, teacher)

    student = at("stage 2", lambda: Student(recipe, encoder))
    yield "stage 2", student, side, whole(run, "stage 2", student, steps["stage 2"], side, _plain(teacher, side))

    for higher in recipe.raised:
        name = f"raised to {higher}"
        before, student = student, copy.deepcopy(student)
        _freeze(before)
        grid = higher // recipe.patch
        yield name, student, higher, whole(run, name, student, recipe.raising, higher, _enlarged(before, side, grid))
        side = higher


def labelled(run: Run, name: str, model: Encoder, steps: int) -> list[float]:
    """On the labels, as teacher and student from scratch are trained."""
    side = run.recipe.side
    return run.fit(name, model, lambda images, labels: F.cross_entropy(model(data.enlarged(images, side)), labels), steps)


def apart(encoder: Encoder, teacher: Encoder, images: Tensor) -> list[Tensor]:
    """Stage 1's loss of each block: from the tokens that the *teacher's* block before gave, so that blocks are independent."""
    with torch.no_grad():
        x, taps = teacher.embed(images), teacher.taps(images)
    before = [x, *(tap.block for tap in taps[:-1])]
    mine = [block(x) for block, x in zip(encoder.blocks, before, strict=True)]
    return [
        (unlike(s.sublayer, t.sublayer) + unlike(s.block, t.block)) / 2 for s, t in zip(mine, taps, strict=True)
    ]  # fmt: skip


def sublayers(run: Run, encoder: Encoder, teacher: Encoder) -> list[float]:
    """Stage 1: propagations alone learn."""

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return torch.stack(apart(encoder, teacher, data.enlarged(images, run.recipe.side))).mean()

    trained = [p for block in encoder.blocks for p in block.mixer.parameters()]
    return run.fit("stage 1", encoder, loss, run.recipe.sublayers, trained)


def whole(
    run: Run, name: str, student: Student, steps: int, side: int, targets: Callable[[Tensor], list[Tap]]
) -> list[float]:  # fmt: skip
    """Stage 2 and what follows it: end to end, against features and never against labels. The head stays the teacher's."""

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            theirs = targets(images)
        return distance(student.taps(data.enlarged(images, side)), theirs, run.recipe)

    encoder = student.encoder
    head = {id(p) for part in (encoder.norm, encoder.head) for p in part.parameters()}
    return run.fit(name, student, loss, steps, [p for p in student.parameters() if id(p) not in head])


def accuracy(model: Model, digits: data.Digits, side: int) -> float:
    model.eval()
    with torch.no_grad():
        found = model(data.enlarged(digits.images, side)).argmax(1)
    return (found == digits.labels).double().mean().item()


def _plain(teacher: Encoder, side: int) -> Callable[[Tensor], list[Tap]]:
    return lambda images: teacher.taps(data.enlarged(images, side))


def _enlarged(teacher: Student, side: int, grid: int) -> Callable[[Tensor], list[Tap]]:
    """The features of a frozen student at its own side, enlarged to the tokens of a higher one."""

    def enlarged(tokens: Tensor) -> Tensor:
        return data.enlarged(tokens.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)

    return lambda images: [Tap(*map(enlarged, tap)) for tap in teacher.taps(data.enlarged(images, side))]


def _freeze(model: nn.Module) -> None:
    model.requires_grad_(False).eval()

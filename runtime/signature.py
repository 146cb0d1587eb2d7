"""Binding a caller's arrays to one entry point.

Everything that can be wrong with an argument is found here, before any kernel
runs, and said in terms of the caller's names.  What does not depend on the call
is worked out once, in the constructor, so that a good call costs microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import tvm_ffi

from treadle.errors import ArgumentError, BoundsError, UnknownNameError
from treadle.runtime.argument import Argument
from treadle.runtime.manifest import Dim, Entry
from treadle.runtime.sizes import SizeExpr, size_expr
from treadle.runtime.stream import UNORDERED
from treadle.runtime.tensors import NUMPY, TORCH, Framework, framework_of


class Bound(NamedTuple):
    """Arguments that passed every check."""

    sizes: dict[str, int]
    tensors: list[tvm_ffi.Tensor]  #: in manifest order
    framework: Framework  #: the one to answer in


class Signature:
    """The checks of one entry point."""

    def __init__(self, entry: Entry, dims: Mapping[str, Dim], alignment: int = 1) -> None:
        """`alignment` is what the device asks of every address, beside what the entry asks of each."""
        self.name = entry.name
        self.inputs = [Argument(entry.name, "input", spec, alignment) for spec in entry.inputs]
        self.updates = entry.updates
        self.outputs = [Argument(entry.name, "output", spec, alignment) for spec in entry.outputs]
        self.input_names = {argument.name for argument in self.inputs}
        #: dim -> the input axis that first states it, outright if any does
        self.origin: dict[str, str] = {}
        for argument in self.inputs:
            for axis, dim in argument.dims:
                self.origin.setdefault(dim, f"{argument.name}.shape[{axis}]")
        #: dims that inputs state only as a multiple: (input, axis, dim, factor)
        self.multiples: list[tuple[int, int, str, int]] = []
        for index, argument in enumerate(self.inputs):
            for axis, size in argument.sizes:
                if size.binds and size.binds[0] not in self.origin:
                    dim, factor = size.binds
                    self.multiples.append((index, axis, dim, factor))
                    self.origin[dim] = f"{argument.name}.shape[{axis}] / {factor}"
        self.bounds = [
            (name, dim.lo, dim.hi, dim.step, [size_expr(size) for size in dim.one_of])
            for name, dim in dims.items()
            if name in self.origin
        ]

    def bind(self, arrays: Mapping[str, Any], device: str = "cpu", stream: int = UNORDERED) -> Bound:
        """Check the inputs and find the sizes they state."""
        if arrays.keys() != self.input_names:
            self._refuse_names(arrays)
        sizes: dict[str, int] = {}
        shapes: list[tuple[int, ...]] = []
        tensors: list[tvm_ffi.Tensor] = []
        answer: Framework = NUMPY if device == "cpu" else TORCH
        for argument in self.inputs:
            array = arrays[argument.name]
            framework = framework_of(array, argument.where)
            if framework is TORCH:
                answer = TORCH
            shape = argument.check(array, framework, device)
            for axis, dim in argument.dims:
                if sizes.setdefault(dim, shape[axis]) != shape[axis]:
                    self._refuse_dim(dim, sizes[dim], shape[axis], argument, axis)
            shapes.append(shape)
            tensors.append(argument.convert(array, framework, stream))
        for index, axis, dim, factor in self.multiples:
            sizes[dim], rest = divmod(shapes[index][axis], factor)
            if rest:
                self._refuse_multiple(self.inputs[index], axis, shapes[index], factor)
        # Only now are all dims known: an input may use one that a later input states.
        for name, lo, hi, step, one_of in self.bounds:
            value = sizes[name]
            if not lo <= value <= hi or value % step:
                self._refuse_bound(name, value, lo, hi, step)
            if one_of and all(size.evaluate(sizes) != value for size in one_of):
                self._refuse_choice(name, value, one_of, sizes)
        for argument, shape in zip(self.inputs, shapes, strict=True):
            for axis, size in argument.sizes:
                argument.check_size(axis, shape, size.evaluate(sizes))
        for name in self.updates:
            self._check_updated(name, arrays, tensors)
        return Bound(sizes, tensors, answer)

    def _check_updated(self, name: str, arrays: Mapping[str, Any], tensors: list[tvm_ffi.Tensor]) -> None:
        """An input that is written must be writable, in memory of its own."""
        mine = next(i for i, argument in enumerate(self.inputs) if argument.name == name)
        argument = self.inputs[mine]
        if not framework_of(arrays[name], argument.where).writable(arrays[name]):
            raise ArgumentError(f"{argument.where} is updated in place and read-only", hint="Pass a writable array.")
        here = argument.span(tensors[mine])
        for other, tensor in zip(self.inputs, tensors, strict=True):
            if other is not argument and _overlap(here, other.span(tensor)):
                raise ArgumentError(
                    f"{argument.where} is updated in place and shares memory with {other.where}",
                    expected="separate memory: kernels read inputs while they write",
                )

    def output_shapes(self, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        """Shapes of the outputs, in manifest order."""
        return [tuple([size.evaluate(sizes) for size in argument.shape]) for argument in self.outputs]

    def allocate(self, bound: Bound, device: str = "cpu") -> tuple[dict[str, Any], list[tvm_ffi.Tensor]]:
        """Fresh outputs in the framework of the inputs."""
        framework, arrays, tensors = bound.framework, {}, []
        for argument, shape in zip(self.outputs, self.output_shapes(bound.sizes), strict=True):
            array = framework.empty(shape, argument.dtype, device)
            arrays[argument.name] = array
            tensors.append(framework.tensor(array))
        return arrays, tensors

    def accept(
        self, out: Mapping[str, Any], bound: Bound, device: str = "cpu", stream: int = UNORDERED
    ) -> tuple[dict[str, Any], list[tvm_ffi.Tensor]]:
        """The caller's own outputs, checked like inputs; they must not overlap anything else."""
        names = [argument.name for argument in self.outputs]
        for name in out:
            if name not in names:
                raise UnknownNameError.unknown("output", name, names, where=self.name)
        arrays, tensors = {}, []
        taken = [(a.span(t), a.where) for t, a in zip(bound.tensors, self.inputs, strict=True)]
        for argument, want in zip(self.outputs, self.output_shapes(bound.sizes), strict=True):
            if argument.name not in out:
                raise ArgumentError(
                    f"{argument.where} is missing from out=",
                    given=", ".join(out) or "nothing",
                    expected=", ".join(names),
                )
            array = out[argument.name]
            framework = framework_of(array, argument.where)
            shape = argument.check(array, framework, device)
            for axis, size in enumerate(want):
                argument.check_size(axis, shape, size)
            if not framework.writable(array):
                raise ArgumentError(f"{argument.where} is read-only", hint="Pass a writable array.")
            tensor = argument.convert(array, framework, stream)
            here = argument.span(tensor)
            for other, whose in taken:
                if _overlap(here, other):
                    raise ArgumentError(
                        f"{argument.where} shares memory with {whose}",
                        expected="separate memory: kernels read inputs while they write",
                    )
            taken.append((here, argument.where))
            arrays[argument.name] = array
            tensors.append(tensor)
        return arrays, tensors

    def _refuse_names(self, arrays: Mapping[str, Any]) -> NoReturn:
        names = [argument.name for argument in self.inputs]
        for name in arrays:
            if name not in self.input_names:
                raise UnknownNameError.unknown("input", name, names, where=self.name)
        missing = next(name for name in names if name not in arrays)
        raise ArgumentError(
            f"{self.name}: input {missing!r} is missing",
            given=", ".join(arrays) or "no inputs",
            expected=", ".join(names),
        )

    def _refuse_dim(self, dim: str, first: int, now: int, argument: Argument, axis: int) -> NoReturn:
        raise ArgumentError(
            f"{self.name}: {dim} is {first} from {self.origin[dim]} but {now} from {argument.name}.shape[{axis}]",
            given=f"{first} and {now}",
            expected=f"one value of {dim}",
        )

    def _refuse_multiple(self, argument: Argument, axis: int, shape: tuple[int, ...], factor: int) -> NoReturn:
        below = shape[axis] // factor * factor
        raise BoundsError(
            f"{argument.where}: the size in axis {axis} does not divide by {factor}",
            given=shape[axis],
            expected=f"a multiple of {factor}, such as {below or factor} or {below + factor if below else 2 * factor}",
            hint="Crop or pad the input.",
        )

    def _refuse_bound(self, name: str, value: int, lo: int, hi: int, step: int) -> NoReturn:
        raise BoundsError(
            f"{self.name}: {name}, from {self.origin[name]}, is outside the bundle's bounds",
            given=value,
            expected=f"{lo} to {hi}" + (f", a multiple of {step}" if step > 1 else ""),
            hint=f"Change the input, or compile again with `--dim {name}=LO..HI`.",
        )

    def _refuse_choice(self, name: str, value: int, one_of: list[SizeExpr], sizes: Mapping[str, int]) -> NoReturn:
        choices = [size.text if size.constant is not None else f"{size} = {size.evaluate(sizes)}" for size in one_of]
        raise BoundsError(
            f"{self.name}: {name}, from {self.origin[name]}, is none of the sizes allowed",
            given=value,
            expected=f"one of {', '.join(choices)}",
        )


def _overlap(a: range, b: range) -> bool:
    return bool(a and b) and a.start < b.stop and b.start < a.stop

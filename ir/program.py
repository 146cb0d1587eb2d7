"""A Program: the mathematics of one operation, with no word of how or where it runs.

A definition is a function that receives a `Builder`, asks it for dimensions and arguments, and returns the body: tensor
expressions (`tvm.te`) or a `Scan`. Dimensions are symbols until somebody binds them, so one definition serves all shapes
within its bounds, and binding is nothing but building again with numbers in place of symbols.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tvm import te, tirx

from treadle.dtypes import dtype as find_dtype
from treadle.errors import ArgumentError, BoundsError, UnknownNameError
from treadle.ir import dims as dm
from treadle.ir.dims import Dim, Size
from treadle.ir.expr import Expr
from treadle.ir.scan import Scan
from treadle.ir.sweep import Sweep

#: What a definition returns: a recurrence, several of them fused, or tensor expressions.
Body = Scan | Sweep | Sequence[te.Tensor]

FLOATS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Attr:
    """A compile-time choice of a Program: one of `choices`, or an integer of at least `minimum`."""

    default: str | int | float | bool
    choices: tuple[Any, ...] = ()
    minimum: int | float | None = None
    doc: str = ""

    def check(self, program: str, name: str, value: Any) -> Any:
        if self.choices:
            if value not in self.choices:
                raise UnknownNameError.unknown(f"{program}: value of attribute {name}", str(value), map(str, self.choices))
            return value
        kind = type(self.default)
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float) if kind is float else kind):
            raise ArgumentError(f"{program}: attribute {name}", given=repr(value), expected=f"a value of type {kind.__name__}")
        if self.minimum is not None and value < self.minimum:  # type: ignore[operator]
            raise ArgumentError(f"{program}: attribute {name}", given=value, expected=f"at least {self.minimum}")
        return kind(value)


@dataclass(frozen=True)
class Cost:
    """The floor of a call: bytes that must cross the memory bus once, floating-point operations, exponentials."""

    bytes: int
    flops: int
    exps: int


@dataclass(frozen=True, eq=False)
class Update:
    """What a Program writes into an argument's memory: the element at `place(*index)` becomes `value[*index]`.

    Only where `where(*index)` holds; every other element stays as it was. Where two indices have one place, the later wins.
    """

    target: te.Tensor
    value: te.Tensor
    place: Callable[..., tuple[Expr, ...]]
    where: Callable[..., Expr]

    @property
    def name(self) -> str:
        """The argument's."""
        return str(self.target.op.name)


@dataclass(frozen=True, eq=False)
class Precondition:
    """What must hold of the arguments' values: `holds` is true at every index, or nothing is computed and `message` raised.

    Kernels on the CPU ask it before they write. On a GPU it would cost a synchronisation, and nobody asks: what does not
    hold there may give any result, but touches nothing outside the tensors.
    """

    holds: te.Tensor
    message: str


@dataclass(frozen=True, eq=False)
class Program:
    """One operation at one dtype, with its attributes fixed and each dimension a symbol or a number."""

    name: str
    dtype: str
    attrs: Mapping[str, Any]
    dims: Mapping[str, Dim]
    bound: Mapping[str, int]
    args: tuple[te.Tensor, ...]
    results: tuple[te.Tensor, ...]
    scan: Scan | None
    flops: Size
    exps: Size
    definition: Definition = field(repr=False)
    sweep: Sweep | None = None
    updates: tuple[Update, ...] = ()
    preconditions: tuple[Precondition, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Names this Program among all others: what was built, not how it was scheduled."""
        free = {n: [d.lo, d.hi, d.step, list(d.one_of)] for n, d in self.dims.items() if n not in self.bound}
        key = [self.name, self.dtype, dict(self.attrs), dict(self.bound), free]
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def symbol(self) -> str:
        """A name usable in generated code, unique per Program."""
        return f"{self.name.replace('.', '_')}_{self.digest}"

    @property
    def adjoint(self) -> Program | None:
        """The backward Program for the same dtype, attributes and sizes, if one is defined."""
        name = self.definition.adjoint
        return build(name, self.dtype, self.attrs, self.bound) if name else None

    @property
    def updated(self) -> tuple[str, ...]:
        """The arguments that are written, by name."""
        return tuple(dict.fromkeys(u.name for u in self.updates))

    @property
    def moved(self) -> list[tuple[te.Tensor, int]]:
        """The tensors that must cross the memory bus, and how often: arguments and results once, what is updated both ways."""
        whole = [t for t in (*self.args, *self.results) if t.op.name not in self.updated]
        return [*((t, 1) for t in whole), *((u.value, 2) for u in self.updates)]

    def cost(self, sizes: Mapping[str, int]) -> Cost:
        """Bytes (of `moved`), flops and exps at the given sizes."""
        sizes = {**self.bound, **sizes}
        total = sum(
            times * _product(dm.evaluate(s, sizes) for s in t.shape) * find_dtype(str(t.dtype)).itemsize
            for t, times in self.moved
        )
        return Cost(total, dm.evaluate(self.flops, sizes), dm.evaluate(self.exps, sizes))


@dataclass(frozen=True)
class Definition:
    """A named Program builder: what `treadle list` and `treadle show` speak of."""

    name: str
    build: Callable[[Builder], Body]
    attrs: Mapping[str, Attr]
    dtypes: tuple[str, ...]
    math: str
    source: str
    adjoint: str | None

    @property
    def doc(self) -> str:
        return (self.build.__doc__ or "").strip()


class Builder:
    """What a definition is given: dtype and attributes to read, dimensions and arguments to ask for."""

    def __init__(self, definition: Definition, dtype: str, attrs: Mapping[str, Any], bind: Mapping[str, Any]) -> None:
        self.dtype = dtype
        self.attrs = attrs
        self._definition = definition
        self._bind = bind
        self._sizes: dict[str, Size] = {}
        self.dims: dict[str, Dim] = {}
        self.bound: dict[str, int] = {}
        self.args: list[te.Tensor] = []
        self.flops: Size = 0
        self.exps: Size = 0
        self.updates: list[Update] = []
        self.preconditions: list[Precondition] = []

    def dim(self, name: str, lo: int = 1, hi: int = dm.DEFAULT_HI, one_of: Sequence[Size] = ()) -> Size:
        """A dimension: the number it was bound to, or else its symbol under the bounds asked for; the same one each time."""
        if name in self._sizes:
            return self._sizes[name]
        dim = Dim(name, lo, hi, one_of=tuple(dm.text(s) for s in one_of))
        wanted = self._bind.get(name)
        if isinstance(wanted, (tuple, list)):
            dim, wanted = dim.within(*wanted), None
        self.dims[name] = dim
        if wanted is None:
            self._sizes[name] = dm.var(name)
            return self._sizes[name]
        if not dim.lo <= wanted <= dim.hi:
            raise BoundsError(f"{self._definition.name}: dimension {name}", given=wanted, expected=f"{dim.lo}..{dim.hi}")
        self.bound[name] = int(wanted)
        self._sizes[name] = tirx.const(int(wanted), "int64")
        return self._sizes[name]

    def arg(self, name: str, shape: Sequence[Size], dtype: str | None = None) -> te.Tensor:
        """An argument, in call order."""
        tensor = te.placeholder(tuple(shape), dtype or self.dtype, name)
        self.args.append(tensor)
        return tensor

    def update(
        self, target: te.Tensor, value: te.Tensor, place: Callable[..., tuple[Expr, ...]], where: Callable[..., Expr]
    ) -> None:
        """State what is written into an argument's memory; see `Update`."""
        self.updates.append(Update(target, value, place, where))

    def require(self, holds: te.Tensor, message: str) -> None:
        """State what must hold of the arguments' values; see `Precondition`."""
        self.preconditions.append(Precondition(holds, message))

    def cost(self, flops: Size = 0, exps: Size = 0) -> None:
        """State the arithmetic floor; bytes follow from arguments and results."""
        self.flops, self.exps = flops, exps


def define(
    name: str,
    *,
    math: str,
    source: str,
    attrs: Mapping[str, Attr] | None = None,
    dtypes: tuple[str, ...] = FLOATS,
    adjoint: str | None = None,
) -> Callable[[Callable[[Builder], Body]], Definition]:
    """Turn a builder function into a Definition; the registry finds it by its place, `ir/ops/<family>/<op>.py`."""

    def wrap(fn: Callable[[Builder], Body]) -> Definition:
        return Definition(name, fn, attrs or {}, dtypes, math, source, adjoint)

    return wrap


def build(
    name: str,
    dtype: str = "float32",
    attrs: Mapping[str, Any] | None = None,
    dims: Mapping[str, int | tuple[int, int]] | None = None,
) -> Program:
    """Build a Program: attributes checked and defaulted, dimensions bound to a number or narrowed to a range (lo, hi)."""
    from treadle.ir.registry import definition  # the registry imports the definitions, which import this module

    d = definition(name)
    if dtype not in d.dtypes:
        raise UnknownNameError.unknown(f"{name}: dtype", dtype, d.dtypes)
    for given in attrs or {}:
        if given not in d.attrs:
            raise UnknownNameError.unknown(f"{name}: attribute", given, d.attrs)
    values = {n: a.check(name, n, (attrs or {}).get(n, a.default)) for n, a in d.attrs.items()}
    b = Builder(d, dtype, values, dims or {})
    body = d.build(b)
    for given in dims or {}:
        if given not in b.dims:
            raise UnknownNameError.unknown(f"{name}: dimension", given, b.dims)
    scan = body if isinstance(body, Scan) else None
    sweep = body if isinstance(body, Sweep) else None
    results = tuple(body.results if isinstance(body, (Scan, Sweep)) else body)
    return Program(
        name, dtype, values, b.dims, b.bound, tuple(b.args), results, scan, b.flops, b.exps, d, sweep,
        tuple(b.updates), tuple(b.preconditions),
    )  # fmt: skip


def _product(values: Any) -> int:
    total = 1
    for v in values:
        total *= v
    return total

"""A kernel as one flat function: device functions stand where they were called.

Parameters of calls become .local variables: no function is active twice, so one place for each call is enough. Those that
hold structures are zeroed first of all: padding is passed along too, and nobody writes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from treadle.codegen.ptxsim.lexer import PtxError
from treadle.codegen.ptxsim.syntax import Addr, Function, Imm, Instr, Module, Not, Operand, Pair, Reg, Sym, Variable, Vec
from treadle.errors import UnknownNameError

#: Calls of calls grow fast; this is more than any kernel has.
_MOST_CALLS, _MOST_INSTRUCTIONS, _DEEPEST = 1 << 14, 1 << 20, 100
#: Functions of CUDA's library that need no body here: a failed assertion ends the kernel.
OF_CUDA = {"__assertfail": "trap"}
#: Nothing is executed behind one of these, unless guarded.
_LAST = ("ret", "exit", "trap", "bra")


def flatten(module: Module, entry: str) -> Function:
    """The kernel `entry` without calls, whose last instruction goes no further."""
    if entry not in module.functions or not module.functions[entry].entry:
        kernels = [name for name, f in module.functions.items() if f.entry]
        raise UnknownNameError.unknown("kernel", entry, kernels, where=module.name)
    return _Flat(module, module.functions[entry]).function()


class _Flat:
    def __init__(self, module: Module, kernel: Function) -> None:
        self.module, self.kernel = module, kernel
        self.calls = 0
        self.body: list[Instr] = []
        self.labels: dict[str, int] = {}
        self.registers: dict[str, str] = {}
        self.variables: dict[str, Variable] = {}
        self.targets: dict[str, tuple[str, ...]] = {}
        self.structures: list[str] = []

    def function(self) -> Function:
        self._place(self.kernel, {}, (), None)
        if not self.body or self.body[-1].guard or self.body[-1].opcode not in _LAST or len(self.body) in self.labels.values():
            self.body.append(Instr("ret", (), ()))
        first = [z for name in self.structures for z in _zeros(self.variables[name])]
        return replace(
            self.kernel, registers=self.registers, variables=tuple(self.variables.values()), body=(*first, *self.body),
            labels={label: index + len(first) for label, index in self.labels.items()}, branch_targets=self.targets,
        )  # fmt: skip

    def _place(self, f: Function, names: dict[str, str], active: tuple[str, ...], leave: str | None) -> None:
        """Append the body of `f`, its names changed by `names`; a callee returns by a branch to the label `leave`."""
        self.registers |= {names.get(r, r): kind for r, kind in f.registers.items()}
        self.variables |= {w.name: w for w in (_local(v, names.get(v.name, v.name)) for v in f.variables)}
        self.structures += [names.get(v.name, v.name) for v in f.variables if v.space == "param" and v.count > 1]
        self.targets |= {names.get(t, t): tuple(names.get(l, l) for l in labels) for t, labels in f.branch_targets.items()}
        of_calls = {v.name for v in f.variables if v.space == "param"}
        of_calls |= set() if f.entry else {v.name for v in (*f.params, *f.returns)}
        at: dict[int, list[str]] = {}
        for label, index in f.labels.items():
            at.setdefault(index, []).append(names.get(label, label))
        for index, instr in enumerate(f.body):
            for label in at.get(index, ()):
                self.labels[label] = len(self.body)
            renamed = _renamed(instr, names) if names else instr
            if instr.opcode == "call":
                self._call(renamed, (*active, f.name))
            elif instr.opcode == "ret" and leave is not None:
                if index + 1 < len(f.body) or instr.guard:
                    self.body.append(replace(renamed, opcode="bra", mods=(), operands=(Sym(leave),)))
            elif _on_call(instr, of_calls, f.entry):
                mods = tuple("local" if m in ("param", "param::func") else m for m in instr.mods)
                self.body.append(replace(renamed, mods=mods))
            else:
                self.body.append(renamed)
        for label in (*at.get(len(f.body), ()), *([leave] if leave else ())):
            self.labels[label] = len(self.body)

    def _call(self, call: Instr, active: tuple[str, ...]) -> None:
        results, callee, arguments, *prototype = call.operands
        assert isinstance(results, Vec) and isinstance(arguments, Vec)
        if prototype or not isinstance(callee, Sym):
            raise self._error(call, "an indirect call, which the machine does not follow", expected="a function by its name")
        if callee.name in OF_CUDA:
            self.body.append(replace(call, opcode=OF_CUDA[callee.name], mods=(), operands=()))
            return
        f = self._callee(call, callee.name, active)
        self.calls += 1
        if self.calls > _MOST_CALLS or len(self.body) > _MOST_INSTRUCTIONS or len(active) > _DEEPEST:
            raise self._error(call, f"calls of calls without end make kernel {self.kernel.name} too long to inline")
        suffix = f"#{self.calls}"
        names = {n: n + suffix for n in (*f.registers, *f.labels, *f.branch_targets)}
        names |= {v.name: f"{v.name}#{f.name}" if v.space == "shared" else v.name + suffix for v in f.variables}
        over, leave = f"{f.name}{suffix}:over", f"{f.name}{suffix}:leave"
        if call.guard:
            opposite = call.guard.of if isinstance(call.guard, Not) else Not(call.guard)
            self.body.append(replace(call, opcode="bra", mods=(), operands=(Sym(over),), guard=opposite))
        line = {"line": call.line, "source": call.source}
        for place, given in self._bind(call, f.params, arguments, names, suffix):
            self.body.append(_move(place, given, into=True, **line))
        out = self._bind(call, f.returns, results, names, suffix)
        self._place(f, names, active, leave)
        for place, given in out:
            self.body.append(_move(place, given, into=False, **line))
        if call.guard:
            self.labels[over] = len(self.body)

    def _callee(self, call: Instr, name: str, active: tuple[str, ...]) -> Function:
        if name in active:
            raise self._error(call, "recursion, which the machine does not follow", given=" -> ".join((*active, name)))
        if name not in self.module.functions:
            hint = "Link the device code into this file, or inline it."
            raise self._error(call, f"a call to {name}, which has no body here", hint=hint)
        f = self.module.functions[name]
        if f.entry:
            raise self._error(call, f"a call to {name}, which is a kernel")
        return f

    def _bind(
        self, call: Instr, formals: tuple[Variable, ...], actuals: Vec, names: dict[str, str], suffix: str
    ) -> list[tuple[Variable, Operand]]:
        """Let each formal mean its actual. Those returned are copied instead, between their place and a register or number."""
        if len(formals) != len(actuals.items):
            raise self._error(call, "a call that does not fit its function", given=len(actuals.items), expected=len(formals))
        copied: list[tuple[Variable, Operand]] = []
        for formal, actual in zip(formals, actuals.items, strict=True):
            if not self._fits(formal, actual):
                what = f"'{actual.name}'" if isinstance(actual, Reg | Sym) else "a number or a list"
                raise self._error(call, f"an argument that does not fit parameter {formal.name}", given=what)
            if isinstance(actual, Sym):
                given = self.variables[actual.name]
                self.variables[actual.name] = replace(given, align=max(given.align, formal.align))
                names[formal.name] = actual.name
                continue
            place = _local(formal, formal.name + suffix)
            names[formal.name] = place.name
            if formal.space == "reg":
                self.registers[place.name] = formal.type
            else:
                self.variables[place.name] = place
            copied.append((place, actual))
        return copied

    def _fits(self, formal: Variable, actual: Operand) -> bool:
        """A variable can be passed as another that is no larger; a register or a number only as one of that kind."""
        if isinstance(actual, Sym):
            given = self.variables.get(actual.name)
            return formal.space == "param" and given is not None and given.space == "local" and given.bytes >= formal.bytes
        return isinstance(actual, Reg | Imm) and formal.count == 1

    def _error(self, call: Instr, message: str, **facts: Any) -> PtxError:
        return PtxError(f"{self.module.name}, line {call.line}: {message}", **{"given": f"'{call.name}'", **facts})


def _local(v: Variable, name: str) -> Variable:
    """A declared variable as the flat function has it."""
    return replace(v, name=name, space="local" if v.space == "param" else v.space)


def _zeros(v: Variable) -> Iterator[Instr]:
    """Stores of zeros all over a variable, as wide as its alignment lets them be."""
    at = 0
    while at < v.bytes:
        size = next(s for s in (8, 4, 2, 1) if v.align % s == 0 and at + s <= v.bytes)
        yield Instr("st", ("local", f"b{8 * size}"), (Addr(Sym(v.name), at), Imm(0)))
        at += size


def _move(place: Variable, given: Operand, into: bool, **line: Any) -> Instr:
    """Copy an argument into its place, or a result out of it."""
    if place.space == "reg":
        here = Reg(place.name)
        return Instr("mov", (place.type,), (here, given) if into else (given, here), **line)
    there = Addr(Sym(place.name))
    return Instr(
        *(("st", ("local", place.type), (there, given)) if into else ("ld", ("local", place.type), (given, there))), **line
    )


def _on_call(instr: Instr, of_calls: set[str], entry: bool) -> bool:
    """Whether an instruction accesses a parameter of a call, not the kernel's own. Registers hold addresses of a callee's own."""
    if instr.opcode not in ("ld", "st") or not {"param", "param::func"} & set(instr.mods):
        return False
    base = next((o.base for o in instr.operands if isinstance(o, Addr)), None)
    return base.name in of_calls if isinstance(base, Sym) else not entry


def _renamed(instr: Instr, names: dict[str, str]) -> Instr:
    operands = tuple(_operand(o, names) for o in instr.operands)
    guard = _operand(instr.guard, names) if instr.guard else None
    assert guard is None or isinstance(guard, Reg | Not)
    return Instr(instr.opcode, instr.mods, operands, guard, instr.line, instr.source)


def _operand(o: Operand, names: dict[str, str]) -> Operand:
    match o:
        case Reg(name):
            return Reg(names.get(name, name))
        case Sym(name):
            return Sym(names.get(name, name))
        case Not(of):
            return Not(Reg(names.get(of.name, of.name)))
        case Vec(items):
            return Vec(tuple(_operand(i, names) for i in items))
        case Pair(first, second):
            return Pair(_operand(first, names), _operand(second, names))
        case Addr(base, offset, rest):
            return Addr(_operand(base, names), offset, tuple(_operand(i, names) for i in rest))
    return o

"""What stands between a function's braces: declarations and labels first, for labels are used before they stand; then instructions."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import lru_cache

from treadle.codegen.ptxsim import declare
from treadle.codegen.ptxsim.lexer import Cursor, Tokens, is_name
from treadle.codegen.ptxsim.operands import Scope, named, operand, predicate
from treadle.codegen.ptxsim.syntax import Function, Instr, Not, Operand, Reg, Source, Sym, Variable, Vec

#: Declarations behind a label that only an indirect call needs, which is refused where one is made.
_OF_INDIRECT_CALLS = (".callprototype", ".calltargets")


@dataclass(frozen=True)
class Header:
    """What stands before a function's braces."""

    name: str
    entry: bool
    params: tuple[Variable, ...]
    returns: tuple[Variable, ...] = ()
    max_threads: tuple[int, int, int] | None = None
    required_threads: tuple[int, int, int] | None = None
    cluster: tuple[int, int, int] | None = None


@dataclass
class Body:
    """A body not read yet: it starts at token `at`, behind its brace, and its closing brace is token `end`."""

    header: Header
    tokens: Tokens
    at: int
    end: int
    files: Mapping[int, str]
    everywhere: Container[str]

    def read(self) -> Function:
        """The function."""
        reader = _Reader(self)
        try:
            return reader.function()
        except RecursionError:
            raise reader.c.error("braces or parentheses nested too deep") from None


@dataclass(frozen=True, slots=True)
class _Statement:
    at: int
    scope: Scope
    source: Source | None


class _Reader:
    def __init__(self, body: Body) -> None:
        self.header, self.files = body.header, body.files
        self.c, self.end = Cursor(body.tokens, body.at), body.end
        self.scopes = 0
        self.scope = Scope(everywhere=body.everywhere)
        self.source: Source | None = None
        self.inlined: dict[tuple[int, int, int], Source] = {}  # a place of inlined code, and who called it last
        self.registers: dict[str, str] = {}
        self.variables: list[Variable] = []
        self.labels: dict[str, int] = {}
        self.targets: dict[str, tuple[int, Scope]] = {}
        self.statements: list[_Statement] = []

    def function(self) -> Function:
        h, c = self.header, self.c
        for v in (*h.returns, *h.params):
            if v.space == "reg":
                self.registers[self.scope.declare(v.name, Reg, c, c.at)] = v.type
            else:
                self.scope.declare(v.name, Sym, c, c.at)
        self._survey()
        astray = None if c.at == self.end and self.scope.outer is None else c.at
        branch_targets = {name: self._branch_targets(*where) for name, where in self.targets.items()}
        instructions = tuple(self._instruction(s) for s in self.statements)
        if astray is not None:  # if no instruction is at fault, which says it better
            raise c.error("braces that do not match", astray)
        return Function(
            h.name, h.entry, h.params, h.returns, self.registers, tuple(self.variables), instructions, self.labels,
            branch_targets, h.max_threads, h.required_threads, h.cluster,
        )  # fmt: skip

    def _survey(self) -> None:
        """Enter declarations and labels, and note where each instruction starts.

        A statement without its semicolon runs on over braces, and then scopes do not end where the body does.
        """
        c, texts = self.c, self.c.texts
        while c.at < self.end:
            text = texts[c.at]
            if text == "{":
                c.at += 1
                self.scopes += 1
                self.scope = Scope(self.scopes, self.scope)
            elif text == "}":
                if self.scope.outer is None:
                    break
                c.at += 1
                self.scope = self.scope.outer
            elif text == ";":
                c.at += 1
            elif text[:1] == ".":
                self._directive()
            elif texts[c.at + 1] == ":" and is_name(text):
                self._label()
            else:
                self.statements.append(_Statement(c.at, self.scope, self.source))
                c.at = self._semicolon() + 1

    def _semicolon(self) -> int:
        try:
            return self.c.texts.index(";", self.c.at, self.end)
        except ValueError:
            raise self.c.error("a statement without end", expected="';'") from None

    def _directive(self) -> None:
        c, at = self.c, self.c.at
        match c.next():
            case ".reg":
                self._registers(declare.register_type(c))
            case ".local" | ".shared" | ".param" as space:
                for v in declare.variables(c, space[1:]):
                    unique = self.scope.declare(v.name, Sym, c, at)
                    self.variables.append(Variable(v.space, unique, v.type, v.count, v.align))
            case ".loc":
                self._location()
            case ".pragma":
                c.string()
                c.expect(";")
            case unknown:
                raise c.error("unknown directive in a function", at, given=f"'{unknown}'")

    def _registers(self, kind: str) -> None:
        c = self.c
        while True:
            name, at = c.word("a register's name"), c.at - 1
            names = [name]
            if c.accept("<"):
                count = c.integer()
                if count > declare.MOST_REGISTERS:
                    raise c.error("more registers than a function can have", at, given=count)
                names = [f"{name}{i}" for i in range(count)]
                c.expect(">")
            for each in names:
                self.registers[self.scope.declare(each, Reg, c, at)] = kind
            if not c.accept(","):
                break
        c.expect(";")

    def _location(self) -> None:
        """`.loc file line column`; of inlined code also where it was called, itself perhaps inlined by a .loc before."""
        c, at = self.c, self.c.at
        place = c.integer(), c.integer(), c.integer()
        if place[0] not in self.files:
            raise c.error("a .loc of a file that no .file names", at, given=place[0])
        caller: Source | None = None
        while c.accept(","):
            if c.accept("function_name"):
                c.word("a label of .debug_str")
                if c.accept("+"):
                    c.integer()
            elif c.accept("inlined_at"):
                called = c.integer(), c.integer(), c.integer()
                if called[0] not in self.files:
                    raise c.error("a .loc of a file that no .file names", at, given=called[0])
                caller = self._caller(called, place)
            else:
                raise c.unexpected("function_name or inlined_at")
        self.source = self.inlined[place] = Source(self.files[place[0]], place[1], caller)

    def _caller(self, called: tuple[int, int, int], place: tuple[int, int, int]) -> Source:
        """Who called what is inlined at `place`. Recursion is not followed: each line of a chain is another."""
        file, line = self.files[place[0]], place[1]
        known = source = self.inlined.get(called)
        while source and (source.file, source.line) != (file, line):
            source = source.caller
        return known if known and not source else Source(self.files[called[0]], called[1])

    def _label(self) -> None:
        c, at = self.c, self.c.at
        name = c.next()
        c.next()
        unique = self.scope.declare(name, Sym, c, at)
        if c.accept(".branchtargets"):
            self.targets[unique] = (c.at, self.scope)
            c.at = self._semicolon() + 1
        elif c.text in _OF_INDIRECT_CALLS:
            c.at = self._semicolon() + 1
        else:
            self.labels[unique] = len(self.statements)

    def _branch_targets(self, at: int, scope: Scope) -> tuple[str, ...]:
        c = self.c
        c.at = at
        found = [self._target(scope)]
        while c.accept(","):
            found.append(self._target(scope))
        c.expect(";")
        return tuple(found)

    def _target(self, scope: Scope) -> str:
        found = named(self.c, scope)
        if not isinstance(found, Sym) or found.name not in self.labels:
            raise self.c.error("not a label", self.c.at - 1, given=f"'{self.c.texts[self.c.at - 1]}'")
        return found.name

    def _instruction(self, s: _Statement) -> Instr:
        c, scope = self.c, s.scope
        c.at = s.at
        guard: Reg | Not | None = None
        if c.accept("@"):
            guard = Not(predicate(c, scope)) if c.accept("!") else predicate(c, scope)
        written = c.text
        if not written[:1].isalpha():
            raise c.unexpected("an instruction")
        c.at += 1
        while c.text[:1] == ".":
            written += c.next()
        opcode, mods = _parts(written)
        operands: list[Operand] = []
        if opcode == "call":
            operands = self._call(scope)
        elif c.text != ";":
            texts, found = c.texts, scope.found
            while True:
                # Most operands are one name seen before.
                if (known := found.get(texts[c.at])) is not None and texts[c.at + 1] in (",", ";"):
                    operands.append(known)
                    c.at += 1
                else:
                    operands.append(operand(c, scope))
                if texts[c.at] != ",":
                    break
                c.at += 1
        if c.text != ";":
            raise c.unexpected("',' or ';'")
        return Instr(opcode, mods, tuple(operands), guard, c.lines[s.at], s.source)

    def _call(self, scope: Scope) -> list[Operand]:
        """`call (results), function, (arguments), prototype;`: always results, function, arguments, then what else there is."""
        c = self.c
        results = self._list(scope)
        if results.items:
            c.expect(",")
        operands: list[Operand] = [results, named(c, scope)]
        if not c.accept(","):
            return [*operands, Vec(())]
        if c.text == "(":
            operands.append(self._list(scope))
            if not c.accept(","):
                return operands
        else:
            operands.append(Vec(()))
        return [*operands, named(c, scope)]

    def _list(self, scope: Scope) -> Vec:
        c = self.c
        items: list[Operand] = []
        if c.accept("("):
            while not c.accept(")"):
                items.append(operand(c, scope))
                if not c.accept(","):
                    c.expect(")")
                    break
        return Vec(tuple(items))


@lru_cache(maxsize=4096)
def _parts(written: str) -> tuple[str, tuple[str, ...]]:
    opcode, *mods = written.split(".")
    return opcode, tuple(mods)

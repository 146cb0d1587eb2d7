"""A PTX file as a syntax tree. Bodies are only bounded here, and read when somebody asks for the function."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from treadle.codegen.ptxsim import declare
from treadle.codegen.ptxsim.body import Body, Header
from treadle.codegen.ptxsim.lexer import Cursor, Tokens, tokenize
from treadle.codegen.ptxsim.syntax import Function, Module, Variable

NEWEST = (9, 0)
TARGETS = ("sm_80", "sm_86", "sm_87", "sm_88", "sm_89", "sm_90", "sm_90a")
_LINKAGE = (".visible", ".extern", ".weak")
#: Directives of a function that change no result, with how many numbers each takes.
_HINTS = dict.fromkeys(
    (".maxnreg", ".minnctapersm", ".maxnctapersm", ".maxclusterrank", ".abi_preserve", ".abi_preserve_control"), 1
) | {".noreturn": 0, ".explicitcluster": 0}
_SHAPES = {".maxntid": "max_threads", ".reqntid": "required_threads", ".reqnctapercluster": "cluster"}


def parse(text: str, name: str) -> Module:
    """The module that `text` is; `name` is what errors call it."""
    return _Reader(tokenize(text, name)).module()


class Functions(Mapping[str, Function]):
    """The functions of a module that have a body, each read on first use."""

    def __init__(self) -> None:
        self._known: dict[str, Function | Body] = {}

    def add(self, body: Body) -> None:
        """Enter one not read yet."""
        self._known[body.header.name] = body

    def __getitem__(self, name: str) -> Function:
        found = self._known[name]
        if isinstance(found, Body):
            found = self._known[name] = found.read()
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._known  # which reads nothing

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


class _Reader:
    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.c = Cursor(tokens)
        self.variables: list[Variable] = []
        self.functions = Functions()
        self.files: dict[int, str] = {}
        self.everywhere: set[str] = set()

    def module(self) -> Module:
        version, target = self._preamble()
        try:
            while self.c.text:
                self._item()
        except RecursionError:
            raise self.c.error("braces or parentheses nested too deep") from None
        return Module(self.tokens.name, version, target, tuple(self.variables), self.functions)

    def _preamble(self) -> tuple[tuple[int, int], str]:
        """.version, .target and .address_size, in this order and first of all."""
        c = self.c
        if not c.accept(".version"):
            raise c.unexpected(".version, with which every PTX file begins")
        written = c.next()
        if not re.fullmatch(r"\d{1,3}\.\d{1,3}", written):
            raise c.error("not a version", c.at - 1, given=f"'{written}'")
        major, minor = (int(part) for part in written.split("."))
        if (major, minor) > NEWEST:
            raise c.error(
                "PTX of a newer ISA", c.at - 1, given=f".version {written}", expected=f"at most {NEWEST[0]}.{NEWEST[1]}",
                hint="Compile with CUDA 13.0 or older.",
            )  # fmt: skip
        c.expect(".target")
        target = c.word("a target")
        if target not in TARGETS:
            raise c.error(
                "PTX for another target", c.at - 1, given=target, expected=f"one of {', '.join(TARGETS)}",
                hint="Compile with -arch of one of these.",
            )  # fmt: skip
        while c.accept(","):
            if not c.accept("debug"):
                raise c.unexpected("'debug', the only option of .target that the machine takes")
        c.expect(".address_size")
        if c.integer() != 64:
            raise c.error("addresses of another size", c.at - 1, given=f"'{c.texts[c.at - 1]}'", expected="64")
        return (major, minor), target

    def _item(self) -> None:
        c, at = self.c, self.c.at
        linkage = set()
        while c.text in _LINKAGE:
            linkage.add(c.next())
        extern = ".extern" in linkage
        match c.next():
            case ".entry":
                self._function(at, entry=True)
            case ".func":
                self._function(at, entry=False)
            case ".global" | ".const" | ".shared" as space:
                for v in declare.variables(c, space[1:], extern=extern):
                    self._variable(v, at)
            case ".file" if not linkage:
                number = c.integer()
                self.files[number] = c.string()
                while c.accept(","):  # its time and size
                    c.integer()
            case ".section" if not linkage:
                c.next()
                c.expect("{")
                self._skip(at)
            case ".pragma" if not linkage:
                c.string()
                c.expect(";")
            case unknown:
                raise c.error("unknown directive", c.at - 1, given=f"'{unknown}'")

    def _variable(self, v: Variable, at: int) -> None:
        """Enter a variable. It may be declared again as .extern, before or after."""
        known = next((i for i, w in enumerate(self.variables) if w.name == v.name), None) if v.name in self.everywhere else None
        if known is not None and (v.extern or self.variables[known].extern) and self.variables[known].space == v.space:
            if not v.extern:
                self.variables[known] = v
            return
        if v.name in self.everywhere:
            raise self.c.error("a name is declared twice", at, given=f"'{v.name}'")
        self.everywhere.add(v.name)
        self.variables.append(v)

    def _function(self, at: int, *, entry: bool) -> None:
        c = self.c
        returns = () if entry else self._parameters()
        name = c.word("a function's name")
        params = self._parameters()
        shapes: dict[str, tuple[int, int, int]] = {}
        while c.text not in ("{", ";"):
            self._attribute(shapes)
        if c.text == "{" and (name in self.functions or any(v.name == name for v in self.variables)):
            raise c.error("a name is declared twice", at, given=f"'{name}'")
        self.everywhere.add(name)
        if c.accept(";"):  # only declared; a call to it is refused if no body follows
            return
        c.expect("{")
        header, start = Header(name, entry, params, returns, **shapes), c.at
        self._skip(at)
        self.functions.add(Body(header, self.tokens, start, c.at - 1, self.files, self.everywhere))

    def _parameters(self) -> tuple[Variable, ...]:
        c = self.c
        found: list[Variable] = []
        if c.accept("("):
            while not c.accept(")"):
                found.append(declare.parameter(c))
                if not c.accept(","):
                    c.expect(")")
                    break
        return tuple(found)

    def _attribute(self, shapes: dict[str, tuple[int, int, int]]) -> None:
        c, at = self.c, self.c.at
        directive = c.next()
        if directive in _SHAPES:
            x, y, z = (*c.integers(3), 1, 1)[:3]
            if not x * y * z:
                raise c.error(f"{directive} of nothing", at)
            shapes[_SHAPES[directive]] = (x, y, z)
        elif directive in _HINTS:
            if _HINTS[directive]:
                c.integer()
        elif directive == ".pragma":
            c.string()
            c.expect(";")
        else:
            raise c.error("unknown directive of a function", at, given=f"'{directive}'")

    def _skip(self, opened: int) -> None:
        """Go behind the brace that closes the one just taken."""
        c, texts, depth, at = self.c, self.c.texts, 1, self.c.at
        while depth:
            text = texts[at]
            if text == "{":
                depth += 1
            elif text == "}":
                depth -= 1
            elif not text:
                raise c.error("the file ends before the closing brace of what begins here", opened, hint="It is truncated.")
            at += 1
        c.at = at

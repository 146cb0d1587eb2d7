"""PTX text as tokens, each with its line; and the one error of text that cannot be read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from treadle.errors import ToolchainError

#: Comments end a token; strings are matched first, for a file's name may hold `//`.
_STRING_OR_COMMENT = re.compile(r'"[^"\n]*"|//[^\n]*|/\*.*?\*/|/\*', re.DOTALL)
#: A name takes its dots and `::` along: an instruction's modifiers and `%tid.x` are one token.
_TOKEN = re.compile(
    r'"[^"\n]*"'
    r"|[A-Za-z_$%][\w$%]*(?:(?:\.|::)[\w$]+)*"
    r"|\.[A-Za-z_]\w*(?:::\w+)*"
    r"|0[fF][0-9A-Fa-f]{8}\b|0[dD][0-9A-Fa-f]{16}\b"
    r"|0[xX][0-9A-Fa-f]+U?\b|0[bB][01]+U?\b"
    r"|(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+\b"
    r"|\d+U?\b"
    r"|<<|>>|\S"
)
_MARKS = frozenset("{}[]()<>,;:|@!+-*/%&^~=")


class PtxError(ToolchainError):
    """PTX text that is damaged, or says what the machine does not take; the message holds file and line."""


@dataclass(frozen=True)
class Tokens:
    """A whole text: token `texts[i]` stands in line `lines[i]`. An empty token ends it, so that reading on is an error, not a crash."""

    name: str
    texts: list[str]
    lines: list[int]


def tokenize(text: str, name: str) -> Tokens:
    """The tokens of `text`, a file called `name`."""

    def blank(found: re.Match[str]) -> str:
        kept = found[0]
        if kept[0] == '"':
            return kept
        if kept == "/*":
            line = 1 + text.count("\n", 0, found.start())
            raise PtxError(f"{name}, line {line}: a comment has no end", hint="The file is truncated.")
        return " " + "\n" * kept.count("\n")

    texts: list[str] = []
    lines: list[int] = []
    for number, line in enumerate(_STRING_OR_COMMENT.sub(blank, text).split("\n"), 1):
        if found := _TOKEN.findall(line):
            texts += found
            lines += [number] * len(found)
    strange = {t for t in set(texts) if len(t) == 1 and not (t.isalnum() or t in "_$") and t not in _MARKS}
    strange |= {t for t in set(texts) if not t.isascii() and t[0] != '"'}
    if strange:
        at = next(i for i, t in enumerate(texts) if t in strange)
        if texts[at] == '"':
            raise PtxError(f"{name}, line {lines[at]}: a string has no end")
        raise PtxError(f"{name}, line {lines[at]}: a character that PTX does not have", given=repr(texts[at]))
    return Tokens(name, [*texts, ""], [*lines, lines[-1] if lines else 1])


class Cursor:
    """A place in the tokens, moving forward."""

    __slots__ = ("at", "lines", "name", "texts")

    def __init__(self, tokens: Tokens, at: int = 0) -> None:
        self.name, self.texts, self.lines, self.at = tokens.name, tokens.texts, tokens.lines, at

    @property
    def text(self) -> str:
        """The token here, not taken yet."""
        return self.texts[self.at]

    def next(self) -> str:
        """Take the token here, whatever it is."""
        text = self.texts[self.at]
        if not text:
            raise self.error("the file ends in the middle", hint="It is truncated.")
        self.at += 1
        return text

    def accept(self, text: str) -> bool:
        """Take the token here if it is `text`."""
        if self.texts[self.at] != text:
            return False
        self.at += 1
        return True

    def expect(self, text: str) -> None:
        """Take `text`, which must be here."""
        if not self.accept(text):
            raise self.unexpected(f"'{text}'")

    def word(self, what: str) -> str:
        """Take a name; `what` says of what."""
        if not is_name(self.text):
            raise self.unexpected(what)
        return self.next()

    def integer(self) -> int:
        """Take an unsigned integer."""
        text = self.text
        if not text[:1].isdigit() or (value := integer(text)) is None:
            raise self.unexpected("an integer")
        self.at += 1
        return value

    def integers(self, most: int) -> tuple[int, ...]:
        """Take up to `most` integers between commas."""
        found = [self.integer()]
        while len(found) < most and self.accept(","):
            found.append(self.integer())
        return tuple(found)

    def string(self) -> str:
        """Take what stands between quotes."""
        if self.text[:1] != '"':
            raise self.unexpected("a string")
        return self.next()[1:-1]

    def unexpected(self, expected: str) -> PtxError:
        """The error that something else than `expected` stands here."""
        if not self.text:
            return self.error("the file ends in the middle", expected=expected, hint="It is truncated.")
        return self.error("unexpected text", given=f"'{self.text}'", expected=expected)

    def error(self, message: str, at: int | None = None, **facts: Any) -> PtxError:
        """An error here, or at token `at`."""
        return PtxError(f"{self.name}, line {self.lines[self.at if at is None else at]}: {message}", **facts)


def is_name(text: str) -> bool:
    """Whether a token can name something."""
    return text[:1].isalpha() or (text[:1] in ("_", "$", "%") and text != "%" and text != "")


def integer(text: str) -> int | None:
    """The value of an integer as PTX writes it, or None: 0x, 0b and 0 lead other bases, U ends an unsigned one."""
    digits = text[:-1] if text[-1] == "U" else text
    try:
        if digits[:2] in ("0x", "0X", "0b", "0B"):
            return int(digits, 0)
        return int(digits, 8 if digits[0] == "0" else 10)
    except ValueError:
        return None

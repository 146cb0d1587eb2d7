"""What a verb answers, and how it reaches the terminal: tables for people, one JSON value for programs."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

SCHEMA = 1
#: Columns of a table that is piped somewhere; a terminal states its own.
_PIPED_WIDTH = 120
#: Seconds between progress lines where there is no terminal; work that ends sooner says nothing.
_PATIENCE = 2.0


@dataclass(frozen=True)
class Reply:
    """A verb's answer: plain JSON values, the same as something rich can print, and the exit code."""

    result: Any
    shown: Sequence[RenderableType]
    code: int = 0


def table(columns: Iterable[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> Table:
    """A table in the one style we use; a column whose name starts with ">" holds numbers and is right-aligned."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        made.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escaped(cell) for cell in row))
    return made


def escaped(cell: Any) -> str:
    """A cell's text with rich's markup switched off: shapes are written in square brackets."""
    return "" if cell is None else str(cell).replace("[", r"\[")


def emit(reply: Reply, verb: str | None, as_json: bool) -> None:
    if as_json:
        _print_json(verb, "result", reply.result)
        return
    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)
    for part in reply.shown:
        console.print(part)


def emit_error(error: dict[str, Any], sentence: str, verb: str | None, as_json: bool) -> None:
    if as_json:
        _print_json(verb, "error", error)
    else:
        Console(stderr=True).print(f"[bold red]error:[/] {escaped(sentence)}", soft_wrap=True, highlight=False)


def note(text: str) -> None:
    """A remark beside the result, on standard error."""
    print(text, file=sys.stderr)


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Progress on standard error: a live line on a terminal, else a plain line every two seconds."""
    if sys.stderr.isatty():
        with Console(stderr=True).status(escaped(what)) as status:
            yield lambda text: status.update(escaped(text))
        return
    latest, done = what, threading.Event()

    def report() -> None:
        said = None
        while not done.wait(_PATIENCE):
            if latest != said:
                note(said := latest)

    def say(text: str) -> None:
        nonlocal latest
        latest = text

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield say
    finally:
        done.set()
        reporter.join()


def _print_json(verb: str | None, kind: str, value: Any) -> None:
    print(json.dumps({"schema": SCHEMA, "verb": verb, kind: _finite(value)}, indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value

"""The command line: one module per verb, each a thin layer over library functions.

A verb returns a Reply; `main` alone prints and decides the exit code: 0 ok, 1 failed, 2 usage, 3 mismatch or regression.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Annotated, Any

import typer

import treadle
from treadle.cli import bench, cache, check, compile, doctor, inspect_, list_, models, run, show
from treadle.cli.failure import UsageError, understood
from treadle.cli.output import Reply, emit, emit_error
from treadle.errors import UnknownNameError
from treadle.settings import settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]

_INTERRUPTED = 130

app = typer.Typer(
    name="treadle",
    help="Kernels as programs and schedules, compiled through Apache TVM into bundles that a small runtime loads.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"Version {treadle.__version__}. Exit codes: 0 ok, 1 failed, 2 usage, 3 mismatch or regression.",
)
_cache = typer.Typer(help="The cache of compiled kernels: list, verify, prune.")


def _verb(group: typer.Typer, name: str, function: Callable[..., Reply]) -> None:
    """Register a verb with the --json that all have. `main` looks for that flag itself: it must hold where parsing fails."""

    @functools.wraps(function)
    def command(*args: Any, as_json: bool, **named: Any) -> Reply:
        return function(*args, **named)

    given = inspect.signature(function, eval_str=True)
    flag = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
    command.__signature__ = given.replace(parameters=[*given.parameters.values(), flag])  # type: ignore[attr-defined]
    group.command(name)(command)


_verb(app, "list", list_.list_programs)
_verb(app, "show", show.show)
_verb(app, "models", models.models)
_verb(app, "compile", compile.compile_)
_verb(app, "inspect", inspect_.inspect_bundle)
_verb(app, "run", run.run)
_verb(app, "check", check.check)
_verb(app, "bench", bench.bench)
_verb(app, "doctor", doctor.doctor)
app.add_typer(_cache, name="cache")
_verb(_cache, "ls", cache.ls)
_verb(_cache, "verify", cache.verify)
_verb(_cache, "prune", cache.prune)


def _print_cmakedir(wanted: bool) -> None:
    if wanted:
        print(resources.files("treadle.runtime") / "cmake")
        raise typer.Exit


@app.callback()
def _options(
    cmakedir: Annotated[
        bool,
        typer.Option("--cmakedir", callback=_print_cmakedir, is_eager=True, help="Print the folder for CMake's -Dtreadle_DIR."),
    ] = False,
) -> None:
    """The options that stand without a verb; each does its work in its callback."""


def _verbs() -> list[str]:
    names = [c.name for c in app.registered_commands] + [g.name for g in app.registered_groups]
    return [n for n in names if isinstance(n, str)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    as_json = "--json" in args
    verb = next((a for a in args if not a.startswith("-")), None)
    debug = False
    try:
        debug = settings.debug
        if verb is not None and verb not in (known := _verbs()):
            raise UnknownNameError.unknown("verb", verb, known)
        reply = app(args, prog_name="treadle", standalone_mode=False)
        if isinstance(reply, Reply):
            emit(reply, verb, as_json)
            return reply.code
        if reply == _INTERRUPTED:
            raise KeyboardInterrupt
        return int(reply or 0)  # --help
    except (KeyboardInterrupt, typer.Abort):
        emit_error({**UsageError("interrupted").to_json(), "type": "Interrupted"}, "interrupted.", verb, as_json)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as wrong:
        if debug:
            traceback.print_exc()
        error = understood(wrong, verb)
        emit_error(error.to_json(), str(error), verb, as_json)
        return error.exit_code

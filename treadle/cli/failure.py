"""Everything that can go wrong, as one of our errors: the four facts that `--json` prints, and an exit code."""

from __future__ import annotations

from typer import TyperException

from treadle.errors import ToolchainError, TreadleError

#: Modules a base install lacks, and the extra that brings each.
_EXTRAS = {
    "tvm": "compiler",
    "networkx": "compiler",
    "filelock": "compiler",
    "torch": "torch",
    "PIL": "image",
    "skimage": "image",
}


class UsageError(TreadleError):
    """A command line that means nothing."""

    exit_code = 2


def understood(wrong: Exception, verb: str | None) -> TreadleError:
    """`wrong` as a TreadleError; one we did not foresee keeps its type's name in the message."""
    if isinstance(wrong, TreadleError):
        return wrong
    if isinstance(wrong, TyperException):
        command = f"treadle {verb}" if verb else "treadle"
        message, _, suggestion = wrong.format_message().partition(" Did you mean ")
        return UsageError(message, hint=f"Did you mean {suggestion}" if suggestion else f"See `{command} --help`.")
    if isinstance(wrong, ModuleNotFoundError) and (extra := _EXTRAS.get((wrong.name or "").partition(".")[0])):
        return ToolchainError(
            f"treadle {verb} needs the {extra} extra",
            given=f"no module {wrong.name}",
            expected=f"the {extra} extra",
            hint=f"pip install 'treadle[{extra}]'",
        )
    if isinstance(wrong, OSError) and wrong.strerror:
        where = f": {wrong.filename}" if wrong.filename else ""
        return TreadleError(f"the system refuses{where}", given=wrong.strerror)
    text = " ".join(str(wrong).split())[:300] or "no message"
    return TreadleError(
        f"unexpected {type(wrong).__name__}: {text}",
        hint="TREADLE_DEBUG=1 shows the traceback; please report it with the command.",
    )

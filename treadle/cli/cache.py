"""treadle cache ls|verify|prune"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from treadle.cli.output import Reply, table
from treadle.cli.units import size


def ls() -> Reply:
    """List the cached kernels and models."""
    from treadle.codegen.cache import Cache

    cache = Cache.default()
    found: list[dict[str, Any]] = [{"key": key, "bytes": count, "sound": sound} for key, count, sound in cache.entries()]
    rows = [(f["key"][:16], size(f["bytes"]), "" if f["sound"] else "damaged") for f in found]
    total = sum(f["bytes"] for f in found)
    result = {"folder": str(cache.root), "bytes": total, "entries": found}
    return Reply(result, [table(["entry", ">size", ""], rows), f"{len(found)} entries, {size(total)} in {cache.root}"])


def verify() -> Reply:
    """Compare every entry with its digests; exit 1 where one is damaged."""
    reply = ls()
    damaged = [e["key"] for e in reply.result["entries"] if not e["sound"]]
    said = (
        f"damaged: {', '.join(k[:16] for k in damaged)}; `treadle cache prune` removes them" if damaged else "all digests match"
    )
    return Reply({**reply.result, "damaged": damaged}, [*reply.shown[1:], said], 1 if damaged else 0)


def prune(
    everything: Annotated[bool, typer.Option("--all", help="Remove sound entries too.")] = False,
) -> Reply:
    """Remove damaged entries and what killed compilations left, or everything."""
    from treadle.codegen.cache import Cache

    cache = Cache.default()
    gone = cache.prune(everything)
    return Reply({"folder": str(cache.root), "removed": gone}, [f"removed {len(gone)} entries from {cache.root}"])

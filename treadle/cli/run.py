"""treadle run BUNDLE --input NAME=FILE... --output DIR"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from treadle.cli import flags
from treadle.cli.output import Reply, note, table, working
from treadle.cli.units import duration
from treadle.errors import UnknownNameError


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that `treadle compile` wrote.")],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="The folder that receives one file per output, and per input that was updated.")],
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="NAME=FILE", help="An array (.npy, .safetensors) or a picture (.png, .jpg); repeat per input."
        ),
    ] = None,
    entry: Annotated[str | None, typer.Option("--entry", help="The entry point; the first unless given.")] = None,
    device: Annotated[str, typer.Option("--device", help="Where to run: cpu, or ptx:sm_90a for the PTX machine.")] = "cpu",
) -> Reply:
    """Run a bundle on files. Arrays are passed as they are; a picture is scaled to -1..1, cropped, and that is said."""
    from treadle.cli.arrays import read, write
    from treadle.sessions import load

    files = flags.pairs("--input", input, "image=photo.png")
    with working("loading the bundle") as say:
        session = load(bundle, device)
        entries = session.entries
        if entry is not None and entry not in entries:
            raise UnknownNameError.unknown("entry point", entry, entries)
        chosen = entries[entry] if entry else next(iter(entries.values()))
        specs = {t.name: t for t in chosen.inputs}
        arrays: dict[str, Any] = {}
        notes: list[str] = []
        for name, file in files.items():
            if name not in specs:
                raise UnknownNameError.unknown(f"input of {chosen.name}", name, specs)
            arrays[name], said = read(Path(file), specs[name], session.manifest.dims)
            notes += [f"{name}: {text}" for text in said]
        for text in notes:
            note(text)
        say(f"running {session.manifest.name}")
        started = time.perf_counter()
        results = session.run(chosen.name, **arrays)
        results |= {name: arrays[name] for name in chosen.updates}
        seconds = time.perf_counter() - started
        written = {name: write(output, name, array) for name, array in results.items()}

    rows = [(n, a.dtype, f"[{', '.join(map(str, a.shape))}]", written[n]) for n, a in results.items()]
    result = {
        "entry": chosen.name,
        "seconds": seconds,
        "notes": notes,
        "outputs": {n: {"dtype": str(a.dtype), "shape": list(a.shape), "file": str(written[n])} for n, a in results.items()},
    }
    return Reply(result, [table(["output", "dtype", "shape", "file"], rows), f"one call, {duration(seconds)}"])

"""Every kernel of a packed kit, and its encoders, launched on the stand-in at every size they are checked and timed at.

python launch_kit.py KIT, in the environment of run.stand_in. The stand-in refuses what CUDA refuses at a launch: grids,
blocks and shared memory that are too large, and, while a call is captured, everything that would spoil it. Prints how many
launches there were. Memory is asked for and never touched, so the sizes that fill a GPU cost nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import fake
import tvm_ffi
from fake import STREAM, DeviceArray

from gpu import model
from gpu.cases import Case, Sizes, read
from gpu.kernels import module
from treadle.runtime import load
from treadle.runtime.sizes import size_expr


def launched(what: str) -> int:
    found = [line for line in fake.log() if line.startswith(("launch", "packed"))]
    assert found and all(f"stream={STREAM:#x}" in line for line in found), (what, found)
    return len(found)


def kernels(kit: Path) -> Iterator[int]:
    for case in read(kit / "kernels")[1]:
        function = module(kit, case.library, case.route).get_function(case.symbol)
        for work in (*case.checked, *([case.timed] if case.timed else [])):
            try:
                yield launch(function, case, work.sizes)
            except Exception as wrong:
                raise SystemExit(f"{case.title} at {dict(work.sizes)}: {wrong}") from wrong


def launch(function: tvm_ffi.Function, case: Case, sizes: Sizes) -> int:
    arrays = [DeviceArray(tuple(t.sizes(sizes)), t.dtype) for t in (*case.args, *case.results)]
    fake.log()
    with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda:0"), STREAM):
        function(*(tvm_ffi.from_dlpack(a.__dlpack__()) for a in arrays))
    for array in arrays:
        array.free()
    return launched(case.title)


def encoders(kit: Path) -> Iterator[int]:
    """Each call twice, the second time captured."""
    for bundle in sorted((kit / "bundles").iterdir()):
        with load(bundle, "cuda:0") as session:
            entry = session.entries["main"]
            for n, h, w in (*model.SIZES, model.TIMED):
                sizes = {"N": n, "H": h, "W": w}
                image, *outs = (
                    DeviceArray(tuple(size_expr(s).evaluate(sizes) for s in t.shape), t.dtype)
                    for t in (*entry.inputs, *entry.outputs)
                )
                out = {t.name: array for t, array in zip(entry.outputs, outs, strict=True)}
                session.run(image=image, out=out, stream=STREAM)
                fake.log()
                with fake.capture():
                    session.run(image=image, out=out, stream=STREAM)
                yield launched(bundle.name)
                for array in (image, *outs):
                    array.free()


if __name__ == "__main__":
    kit = Path(sys.argv[1])
    print(f"{sum(kernels(kit))} launches of kernels, {sum(encoders(kit))} of encoders")

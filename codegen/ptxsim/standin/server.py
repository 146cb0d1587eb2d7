"""What the stand-in asks of the machine: a kernel's parameters, and launches, with what happened to memory before each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim import grid, hazards
from treadle.codegen.ptxsim.device_memory import DeviceMemory
from treadle.codegen.ptxsim.parse import parse
from treadle.codegen.ptxsim.syntax import Function, Module
from treadle.errors import TreadleError, UnknownNameError

# cudaError_t
_INVALID_VALUE, _INVALID_PTX, _NO_FILE, _NO_SYMBOL, _ILLEGAL_ADDRESS, _TIMEOUT, _MISALIGNED, _FAILURE = (
    1, 218, 301, 500, 700, 702, 716, 719,
)  # fmt: skip
_CODES = {
    hazards.BoundsHazard: _ILLEGAL_ADDRESS,
    hazards.MisalignedHazard: _MISALIGNED,
    hazards.DeadlockHazard: _TIMEOUT,
}


class Server:
    """Memory, and the modules met so far."""

    def __init__(self, buffer: NDArray[np.uint8], base: int, seed: int = 0, jobs: int = 1) -> None:
        self.buffer, self.base, self.seed, self.jobs = buffer, base, seed, jobs
        self.memory = DeviceMemory(buffer, base)
        self._modules: dict[tuple[str, int, int], Module] = {}
        self._verbs: dict[str, Callable[[Sequence[str]], str]] = {
            "hello": lambda _: "",
            "reset": self._reset,
            "parameters": self._parameters,
            "launch": self._launch,
        }

    def answer(self, request: str) -> str:
        """`CODE STICKY`, and text: what was asked for, or what is wrong. A hazard breaks the device, a refusal does not."""
        verb, *lines = request.splitlines()
        try:
            return f"0 0\n{self._verbs[verb](lines)}"
        except hazards.HazardError as hazard:
            return f"{_CODES.get(type(hazard), _FAILURE)} 1\n{type(hazard).__name__}: {hazard}"
        except UnknownNameError as wrong:
            return f"{_NO_SYMBOL} 0\n{wrong}"
        except FileNotFoundError as wrong:
            return f"{_NO_FILE} 0\n{wrong}"
        except TreadleError as wrong:
            code = _INVALID_VALUE if isinstance(wrong, ValueError) else _INVALID_PTX
            return f"{code} 0\n{type(wrong).__name__}: {wrong}"

    def _reset(self, _: Sequence[str]) -> str:
        self.memory = DeviceMemory(self.buffer, self.base)
        return ""

    def _parameters(self, lines: Sequence[str]) -> str:
        words = dict(line.split(" ", 1) for line in lines)
        return " ".join(str(v.bytes) for v in self._entry(self._module(words["ptx"]), words["entry"]).params)

    def _launch(self, lines: Sequence[str]) -> str:
        words: dict[str, str] = {}
        params: list[bytes] = []
        for word, value in (line.partition(" ")[::2] for line in lines):
            if word == "param":
                params.append(bytes.fromhex(value))
            elif word in ("allocate", "written", "free"):
                address, size = map(int, value.split())
                self._memory(word, address, size)
            else:
                words[word] = value

        def dims(word: str) -> list[int]:
            return [int(n) for n in words[word].split()]

        cluster = dims("cluster") if "cluster" in words else None
        shape = dims("grid"), dims("block"), params, self.memory, int(words["shared"]), cluster
        grid.launch(self._module(words["ptx"]), words["entry"], *shape, self.seed, self.jobs)
        return ""

    def _memory(self, word: str, address: int, size: int) -> None:
        if word == "free":
            self.memory.free(address)
        elif word == "allocate":
            self.memory.allocate(address, size)
        else:
            self.memory.written(address, size)

    def _module(self, path: str) -> Module:
        """Parsed once, and again where the file has changed."""
        state = os.stat(path)
        key = path, state.st_mtime_ns, state.st_size
        if key not in self._modules:
            self._modules[key] = parse(Path(path).read_text(), path)
        return self._modules[key]

    @staticmethod
    def _entry(module: Module, name: str) -> Function:
        function = module.functions.get(name)
        if function is None or not function.entry:
            raise UnknownNameError.unknown("kernel", name, [f.name for f in module.functions.values() if f.entry], where=module.name)
        return function

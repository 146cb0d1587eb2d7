"""The PTX machine as the stand-in's child process: python -m treadle.codegen.ptxsim.standin.serve BASE BYTES

Descriptor 3 is device memory, 4 the socket of cpp/machine.cc, which states the protocol. The process ends with the socket,
also in the middle of a kernel.
"""

from __future__ import annotations

import fcntl
import mmap
import multiprocessing
import os
import select
import signal
import socket
import struct
import sys
import traceback
from types import FrameType

import numpy as np

from treadle.codegen.ptxsim.standin.server import Server
from treadle.settings import settings

_MEMORY, _SOCKET = 3, 4
_LENGTH = struct.Struct("<I")


def main() -> None:
    """Answers requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends this process; the program's own decides what to do
    base, size = map(int, sys.argv[1:])
    buffer = np.frombuffer(mmap.mmap(_MEMORY, size), np.uint8)
    wire = socket.socket(fileno=_SOCKET)
    _end_with(wire)
    server = Server(buffer, base, settings.ptx_seed, settings.ptx_jobs)
    while request := _receive(wire):
        try:
            answer = server.answer(request)
        except Exception:  # ours: the program hears of it as of any other failure
            answer = f"999 1\nthe PTX machine failed:\n{traceback.format_exc()}"
        raw = answer.encode()
        wire.sendall(_LENGTH.pack(len(raw)) + raw)


def _receive(wire: socket.socket) -> str:
    """The next request; empty at the end."""
    head = _exactly(wire, _LENGTH.size)
    return _exactly(wire, *_LENGTH.unpack(head)).decode() if head else ""


def _exactly(wire: socket.socket, count: int) -> bytes:
    """So many bytes; none where the other side is gone."""
    got = bytearray()
    while len(got) < count:
        part = wire.recv(count - len(got))
        if not part:
            return b""
        got += part
    return bytes(got)


def _end_with(wire: socket.socket) -> None:
    """Ends this process when the other side is gone, whatever it is doing: the system signals what happens to the socket."""
    watch = select.poll()
    watch.register(wire, select.POLLHUP)

    def look(number: int, frame: FrameType | None) -> None:
        if watch.poll(0):
            for worker in multiprocessing.active_children():
                worker.kill()
            os._exit(0)

    signal.signal(signal.SIGIO, look)
    fcntl.fcntl(wire, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(wire, fcntl.F_SETFL, fcntl.fcntl(wire, fcntl.F_GETFL) | os.O_ASYNC)


if __name__ == "__main__":
    main()

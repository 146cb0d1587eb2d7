"""Jobs, given one at a time to a worker process; a job that kills or hangs its worker fails alone."""

from __future__ import annotations

import json
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

Row = dict[str, Any]
#: Seconds for a process to end; one that waits for a hung device may never.
_GRACE = 60


@dataclass(frozen=True)
class Job:
    """One call of a method of worker.Desk. `head` names the subject in the row of a failure."""

    do: str
    title: str
    given: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> object:
        """The kernel or bundle that the job is about."""
        return self.given.get("case", self.given.get("bundle"))


class Workers:
    """One worker process at a time, started again after each that died."""

    def __init__(self, command: Sequence[str], log: Path, limit: float, environment: Mapping[str, str] | None = None) -> None:
        self.command, self.log, self.limit, self.environment = command, log, limit, environment
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None
        self._heard = 0  # bytes of the log that earlier workers wrote

    def do(self, job: Job) -> list[Row]:
        """The job's rows; if it failed, one row that is not ok and says why."""
        process = self._process or self._start()
        try:
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps({"do": job.do, "with": dict(job.given)}) + "\n")
            process.stdin.flush()
            ready = select.select([process.stdout], [], [], self.limit)[0]
            line = process.stdout.readline() if ready else ""
        except BrokenPipeError:
            ready, line = [process.stdout], ""
        if not ready:
            process.kill()
            self.close()
            return [self._failure(job, f"ran longer than {self.limit:g} s")]
        if not line.endswith("\n"):
            why = f"the process died: {_ending(self.close())}"
            return [self._failure(job, f"{why}; {said}" if (said := self._last_words()) else why)]
        answer = json.loads(line)
        if answer["broken"]:
            self.close()
        return answer["rows"] if "failed" not in answer else [self._failure(job, answer["failed"])]

    @property
    def alive(self) -> bool:
        return self._process is not None

    def close(self) -> int:
        """End the worker, if any; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin and process.stdout and self._errors
        with suppress(BrokenPipeError):
            process.stdin.close()
        try:
            code = process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            code = -signal.SIGKILL
        process.stdout.close()
        self._errors.close()
        return code

    def _start(self) -> subprocess.Popen[str]:
        self._errors = self.log.open("a")
        self._heard = self.log.stat().st_size
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=self.environment
        )
        return self._process

    def _failure(self, job: Job, why: str) -> Row:
        return {**job.head, "ok": False, "failed": True, "why": why}

    def _last_words(self) -> str:
        """The last line that this worker left on standard error."""
        lines = self.log.read_bytes()[self._heard :].decode(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"

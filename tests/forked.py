"""Python processes that have imported the package already: forks of one that has.

Torch and the package take seconds to import, and a test that kills a process, or wants two, needs a new one. Here the
seconds are spent once. `python_with("artv_core.cli")` starts a Python that imports this and then waits; each `start`
forks it. The fork runs its code as `python -c` does: with its own arguments, environment, folder and output, and it
ends as a Python process ends. What must be shown of the true command line starts a Python of its own instead.

As a program, this file is the process that forks.
"""

import atexit
import functools
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent
COMMAND = "import sys; from artv_core.cli import main; sys.exit(main())"
"""What `python -m artv_core.cli` runs."""
COMMANDS = ("artv_core.cli", "artv_core.run.execute", "artv_core.run.pipeline", "artv_core.media", "tests.tokenizer")
"""What commands that sample import."""


@functools.cache
def python_with(*modules: str) -> "ForkingPython":
    """The Python with these modules: one for all tests of this process. It ends with it."""
    return ForkingPython(*modules)


class ForkingPython:
    """A Python that has imported `modules`, and its forks. It has one thread, because a fork keeps only one."""

    def __init__(self, *modules: str) -> None:
        self._ask, answer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, __file__, str(answer.fileno()), *modules]
        with answer:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, pass_fds=[answer.fileno()], stdin=subprocess.DEVNULL
            )
        atexit.register(process.wait)  # the calls are in reverse order
        atexit.register(self._ask.close)

    def start(
        self, code: str, *words: object, folder: Path = ROOT, environment: Mapping[str, str] | None = None
    ) -> "Fork":
        """Run `code` in a fork, with `words` as its arguments, in that folder; `environment` is added to this
        process's."""
        given = {"code": code, "words": list(map(str, words)), "folder": str(folder)}
        given["environment"] = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        status, its_status = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        (out, its_out), (err, its_err) = os.pipe(), os.pipe()
        message = json.dumps(given).encode()
        self._ask.sendall(f"{len(message):8}".encode() + message)
        socket.send_fds(self._ask, [b"."], [its_status.fileno(), its_out, its_err])
        its_status.close()
        for end in (its_out, its_err):
            os.close(end)
        return Fork(status, open(out, encoding="utf-8"), open(err, encoding="utf-8"))

    def run(self, code: str, *words: object, timeout: float = 120, **how: Any) -> "subprocess.CompletedProcess[str]":
        """As `subprocess.run`, with the output as text."""
        fork = self.start(code, *words, **how)
        out, err = fork.communicate(timeout)
        assert fork.returncode is not None
        return subprocess.CompletedProcess([code, *map(str, words)], fork.returncode, out, err)


class Fork:
    """What tests use of `subprocess.Popen`."""

    def __init__(self, status: socket.socket, out: IO[str], err: IO[str]) -> None:
        self._status, self.stdout, self.stderr = status, out, err
        self.returncode: int | None = None
        self.pid = int(status.recv(8))

    def poll(self) -> int | None:
        """The exit code as `subprocess` has it, or None while the process runs."""
        return self._wait(0.001)

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """All that is left of its output, once it has ended. Kills it if that takes longer than `timeout` seconds."""
        with ThreadPoolExecutor(2) as pool:
            out, err = pool.submit(self.stdout.read), pool.submit(self.stderr.read)
            if self._wait(timeout) is None:
                self.kill()
                raise TimeoutError(f"a fork did not end in {timeout} seconds")
            return out.result(), err.result()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait(self, timeout: float) -> int | None:
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                self.returncode = os.waitstatus_to_exitcode(int(self._status.recv(8)))
            except TimeoutError:
                return None
        return self.returncode


# In the process that forks


def next_fork(asked: socket.socket) -> dict[str, Any] | None:
    """Serve until nobody is there to ask. Returns what to run in each fork, and None in this process."""
    while length := asked.recv(8, socket.MSG_WAITALL):
        _forget_ended()
        given = json.loads(asked.recv(int(length), socket.MSG_WAITALL))
        _, ends, _, _ = socket.recv_fds(asked, 1, 3)
        if os.fork() == 0:
            return _forked_again(given, *ends)
        for end in ends:
            os.close(end)
    _forget_ended()
    return None


def _forget_ended() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _forked_again(given: dict[str, Any], status: int, out: int, err: int) -> dict[str, Any]:
    """Returns in a second fork. The first one waits for it and says how it ended."""
    if pid := os.fork():
        for end in (out, err):
            os.close(end)
        os.write(status, f"{pid:8}".encode())
        os.write(status, f"{os.waitpid(pid, 0)[1]:8}".encode())
        os._exit(0)
    os.close(status)
    for end, place in ((out, 1), (err, 2)):
        os.dup2(end, place)
        os.close(end)
    return given


def begin(given: dict[str, Any]) -> None:
    """Make this fork a process with that environment, folder and arguments."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
    os.environ.clear()
    os.environ.update(given["environment"])
    os.chdir(given["folder"])
    sys.argv = ["-c", *given["words"]]


if __name__ == "__main__":
    connection = socket.socket(fileno=int(sys.argv[1]))
    for module in sys.argv[2:]:
        importlib.import_module(module)
    if (task := next_fork(connection)) is not None:
        connection.close()
        begin(task)
        exec(compile(task["code"], "<string>", "exec"), {"__name__": "__main__"})

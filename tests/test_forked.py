"""Forks are to tests what processes are."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import COMMAND, COMMANDS, ROOT, python_with

SAYS = (
    "import atexit, os, sys; atexit.register(print, 'ended');print(sys.argv, os.getcwd(), os.environ['WHO'], __name__);"
)


@pytest.mark.parametrize(
    "code",
    [
        "",
        "sys.exit(3)",
        "sys.exit('not found')",
        "raise KeyError(7)",
        "os.kill(os.getpid(), 9)",
        "os.kill(os.getpid(), 15)",
        "print('x' * 300_000); print('y' * 300_000, file=sys.stderr)",
    ],
)
def test_a_fork_says_and_ends_as_a_process_does(tmp_path: Path, code: str) -> None:
    words = ["a word", "\u00e9"]
    environment = {"WHO": "fork", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SAYS + code, *words]
    expected = subprocess.run(command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True)
    got = python_with("json").run(SAYS + code, *words, folder=tmp_path, environment=environment)
    said = re.sub(r'  File "[^"]*forked\.py", line .*\n.*\n', "", got.stderr)
    assert (got.returncode, got.stdout, said) == (expected.returncode, expected.stdout, expected.stderr)


def test_forks_run_at_once_and_take_signals() -> None:
    """The first one ends on Ctrl-C, long after the second one was started and ended."""
    waits = python_with("json").start("import time; print('here', flush=True); time.sleep(60)")
    assert waits.stdout.readline() == "here\n"
    assert python_with("json").run("print(1)").stdout == "1\n"
    assert waits.poll() is None
    waits.send_signal(signal.SIGINT)
    _, err = waits.communicate(timeout=30)
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert waits.returncode == -signal.SIGINT


def test_the_package_is_there_already_and_no_thread_was_lost() -> None:
    python = python_with(*COMMANDS)
    assert python.run("import sys; print('torch' in sys.modules)").stdout == "True\n"
    assert python.run(COMMAND, "--version").stdout.startswith("artv ")
    if sys.platform == "linux":
        assert python.run("import os; print(len(os.listdir('/proc/self/task')))").stdout == "1\n"

"""Work in pieces, done by this process or by Ray's workers, here or on a cluster.

A piece reads its lines of one file and writes one other file, completely or not at all. So the files are the same
whoever does the work and however often it is interrupted, and existing files need not be made again.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..files.installed import how_to_install
from ..files.partial_file import replacing
from ..run.pipeline import pick_device

MAX_BLOCKS = 2000
"""The most blocks of tasks that Ray has to track."""


class Worker(Protocol):
    """Makes pieces. It is built once in each process, because it may contain models."""

    def make(self, lines: list[dict[str, Any]], target: Path) -> None:
        """Make `target` from these lines."""


@dataclass(frozen=True)
class Task:
    """A piece of work: make `target` from the `count` lines that begin at byte `start` of the file of lines."""

    target: str
    start: int
    count: int


@dataclass(frozen=True)
class Engine:
    """Who does the work. "plain" is this process. "ray" uses `workers` processes, each with one core and, if models run
    on GPUs, `gpus` of a GPU. `device` "auto" is a GPU if this machine, or Ray's cluster, has one."""

    name: str
    workers: int = 1
    address: str | None = None
    device: str = "auto"
    gpus: float = 1.0


def write_tasks(path: Path, pieces: Iterable[tuple[str, Sequence[Mapping[str, Any]]]]) -> list[Task]:
    """Write the lines of all `pieces`, given as (target, lines), to one file. Returns tasks that say where each piece's
    lines are."""
    tasks = []
    with replacing(path) as partial, partial.open("wb") as file:
        for target, lines in pieces:
            tasks.append(Task(target, file.tell(), len(lines)))
            for line in lines:
                file.write(json.dumps(line).encode() + b"\n")
    return tasks


def run_tasks(
    engine: Engine, build: Callable[..., Worker], settings: Mapping[str, Any], path: Path, tasks: Sequence[Task]
) -> Iterator[int]:
    """Do the tasks whose lines are in `path`, with workers made by `build(device=..., **settings)`. Yields the number
    of lines of each finished task. Raises ValueError if a worker does."""
    if not tasks:
        return iter(())
    run = _run_ray if engine.name == "ray" else _run_plain
    return run(engine, build, settings, path, tasks)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Limit Torch to one thread in each process, so that sums are added in the same order everywhere."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _do(worker: Worker, path: Path, target: str, start: int, count: int) -> int:
    with path.open("rb") as file:
        file.seek(start)
        lines = [json.loads(file.readline()) for _ in range(count)]
    worker.make(lines, Path(target))
    return count


def _run_plain(
    engine: Engine, build: Callable[..., Worker], settings: Mapping[str, Any], path: Path, tasks: Sequence[Task]
) -> Iterator[int]:
    worker = build(device=str(pick_device(engine.device)), **settings)
    for task in tasks:
        yield _do(worker, path, task.target, task.start, task.count)


# Ray


class _RayWorker:
    """The worker in each of Ray's processes. It returns a user's error as a row, because Ray would wrap it in a
    traceback."""

    def __init__(self, build: Callable[..., Worker], settings: dict[str, Any], path: str) -> None:
        self.path, self.error, self.worker = Path(path), "", None
        try:
            with single_threaded():
                self.worker = build(**settings)
        except (ValueError, OSError) as error:
            self.error = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.worker is None:
            return {"done": 0, "error": self.error}
        try:
            with single_threaded():
                return {"done": _do(self.worker, self.path, **row), "error": ""}
        except (ValueError, OSError) as error:
            return {"done": 0, "error": str(error)}


def check_installed(engine: Engine) -> None:
    """Raises ValueError if a package is missing that preparing, or this engine, needs."""
    for module in ("scenedetect", "webdataset", *(["ray.data"] if engine.name == "ray" else [])):
        try:
            importlib.import_module(module)
        except ImportError as error:
            plain = "; or use --engine plain, which does the same in this process" if module == "ray.data" else ""
            name = module.partition(".")[0]
            reason = " ".join(str(error).split())[:120]
            raise ValueError(f"{name} cannot be imported ({reason}); {how_to_install('prepare')}{plain}") from None


def _run_ray(
    engine: Engine, build: Callable[..., Worker], settings: Mapping[str, Any], path: Path, tasks: Sequence[Task]
) -> Iterator[int]:
    ray = _connected(engine)
    gpus = engine.gpus if _wants_gpus(engine, ray) else 0.0
    settings = {**settings, "device": "cuda" if gpus else "cpu"}
    rows = [vars(task) for task in tasks]
    done = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS)).map(
        _RayWorker,
        fn_constructor_kwargs={"build": build, "settings": settings, "path": str(path.absolute())},
        compute=ray.data.ActorPoolStrategy(size=min(engine.workers, len(rows))),
        num_cpus=1,
        num_gpus=gpus or None,
    )
    try:
        for row in done.iter_rows():
            if row["error"]:
                raise ValueError(row["error"])
            yield row["done"]
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1][:300]
        raise ValueError(f"Ray: {last}; what is finished is kept, and the same command continues from there") from None


def _wants_gpus(engine: Engine, ray: Any) -> bool:
    if engine.device == "auto":
        return ray.cluster_resources().get("GPU", 0) > 0
    if engine.device in ("cpu", "cuda"):
        return engine.device == "cuda"
    raise ValueError(f"--device {engine.device} is for --engine plain; with Ray accepted are auto, cpu and cuda")


def _connected(engine: Engine) -> Any:
    """Ray, started here or found on the cluster, with its messages off."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray.data

    if not ray.is_initialized():
        address = engine.address or os.environ.get("RAY_ADDRESS")
        here: dict[str, Any] = {} if address else {"num_cpus": max(engine.workers, 1), "include_dashboard": False}
        try:
            with _silence(), _signals_kept():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **here)
        except SystemExit:  # what Ray does on SIGTERM while it starts
            raise KeyboardInterrupt from None
        except ConnectionError as error:
            raise ValueError(f"cannot reach Ray at {address}: {str(error).splitlines()[0]}") from None
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    return ray


@contextmanager
def _silence() -> Iterator[None]:
    """Show no messages on stderr, including those from C++, where Ray reports its log level when it starts. Errors are
    still raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep the handlers of Ctrl-C and SIGTERM; Ray's own would abort the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def disconnect() -> None:
    """Disconnect from Ray if it was used. A Ray that was started here ends."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()

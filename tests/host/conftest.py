"""One server of each host for the whole session. Without a host the tests here are skipped, and say so.

Tests that a module names in `LAZY_TOO` also run on each host that has lazily made layers (dynamic VRAM): those in
which weights are loaded, cast or changed.
"""

import functools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from artv_core.checkpoint import save_checkpoint, shipped_names
from artv_core.commands.comfyui_server import PACK, Host, Server, find_hosts
from artv_core.config import preset
from artv_core.models.artv import ARTV


@dataclass(frozen=True)
class LazyHost(Host):
    """A host whose layers have no weights until they are loaded."""


def makes_lazy_layers(host: Host) -> bool:
    place = host.root / "comfy" / "memory_management.py"
    return place.is_file() and "aimdo_enabled" in place.read_text(encoding="utf-8")


HOSTS = find_hosts()
LAZY_HOSTS = [LazyHost(host.root) for host in HOSTS if makes_lazy_layers(host)]
NO_HOST = "no ComfyUI found: set COMFYUI_PATH to its folder to run these tests"
FAULTS = Path(__file__).parent / "artv_faults"
LAZY_LAYERS = Path(__file__).parent / "artv_lazy_layers"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "host" in metafunc.fixturenames:
        lazy_too = metafunc.function.__name__ in getattr(metafunc.module, "LAZY_TOO", ())
        hosts = HOSTS + (LAZY_HOSTS if lazy_too else [])
        params = hosts or [pytest.param(None, marks=pytest.mark.skip(NO_HOST))]
        ids = [f"ComfyUI-{host.version}" + "-lazy" * is_lazy(host) for host in hosts] or ["ComfyUI"]
        metafunc.parametrize("host", params, ids=ids, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note which tests run in a host, for `--host-must-run`."""
    for item in items:
        host = (
            item.callspec.params.get("host")
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
            else None
        )
        if host is not None:
            item.user_properties.append(("host", host.version))


def is_lazy(host: Host) -> bool:
    return isinstance(host, LazyHost)


_missing = functools.cache(Host.missing)


def skip_without(host: Host) -> None:
    missing = _missing(host)
    if missing:
        pytest.skip(f"{host.python} lacks what {host.root} requires: {', '.join(missing)}")


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[dict[Host, Server], ExitStack]]:
    """Those that run already, and what stops them when the session ends: tests come back to a host after another."""
    with ExitStack() as running:
        yield {}, running


@pytest.fixture(scope="session")
def server(
    host: Host, servers: tuple[dict[Host, Server], ExitStack], tmp_path_factory: pytest.TempPathFactory
) -> Server:
    skip_without(host)
    started, running = servers
    if host not in started:
        base = tmp_path_factory.mktemp("comfyui")
        server = Server(host, base, FAULTS, *[LAZY_LAYERS] * is_lazy(host))
        folder = base / "models" / "artv"
        save_random_model(folder / "test.safetensors")
        for name in ("other", "slow"):
            shutil.copyfile(folder / "test.safetensors", folder / f"{name}.safetensors")
        started[host] = running.enter_context(server)
    return started[host]


@pytest.fixture(scope="session")
def checkpoint() -> str:
    """The shipped checkpoint as the loader's menu calls it; an untrained one of that kind where none is shipped."""
    return "tiny (shipped)" if "tiny" in shipped_names() else "test.safetensors"


def save_random_model(path: Path) -> None:
    save_checkpoint(random_model(), path)


def random_model() -> ARTV:
    """An untrained `tiny` none of whose layers is zero, so that every condition has an effect."""
    torch.manual_seed(0)
    model = ARTV(preset("tiny"))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    model.update_null_context()
    return model


def checkpoint_in(base: Path) -> Path:
    """Where `in_process` looks for a checkpoint; its folder is made."""
    path = base / "models" / "artv" / "test.safetensors"
    path.parent.mkdir(parents=True)
    return path


class HostProcess:
    """A process of a host that has imported it, and makes checks of `in_process.py` in processes forked from it."""

    def __init__(self, host: Host) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="artv_in_process_")
        place = Path(self._folder.name)
        self._base, self._log = place / "base", place / "log"
        self._base.symlink_to(place, target_is_directory=True)
        script = Path(__file__).parent / "in_process.py"
        command = [host.python, str(script), str(PACK), str(self._base)]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=host.root, stderr=log, **pipes)

    def make(self, check: str, base: Path, layers: str, options: dict[str, Any]) -> Any:
        """What the check finds."""
        self._base.unlink()
        self._base.symlink_to(base, target_is_directory=True)
        found = base / f"{check}.json"
        said = self._log.stat().st_size
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"check": check, "found": str(found), "layers": layers, "options": options}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer = next((line for line in self._process.stdout if line.startswith("done ")), "it ended")
        assert answer == "done 0\n", self._log.read_bytes()[said:].decode(errors="replace")[-3000:]
        return json.loads(found.read_text(encoding="utf-8"))

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


InProcess = Callable[..., Any]


@pytest.fixture(scope="session")
def processes() -> Iterator[dict[Host, HostProcess]]:
    """One for each host, kept until the session ends: starting one takes longer than most checks."""
    started: dict[Host, HostProcess] = {}
    yield started
    for process in started.values():
        process.stop()


@pytest.fixture(scope="session")
def in_process(processes: dict[Host, HostProcess]) -> InProcess:
    """What `in_process.py` finds, by default with the layers that the host is to be tested with."""

    def find(host: Host, check: str, base: Path, layers: str | None = None, **options: Any) -> Any:
        skip_without(host)
        layers = layers or ("lazy" if is_lazy(host) else "plain")
        key = Host(host.root)
        if key not in processes:
            processes[key] = HostProcess(host)
        try:
            return processes[key].make(check, base, layers, options)
        except BaseException:
            processes.pop(key).stop()  # where the check was cut off, it would answer the next one
            raise

    return find

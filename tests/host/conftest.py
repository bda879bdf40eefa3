"""One server of each host for the whole session. Without a host the tests here are skipped, and say so.

Modules that say `LAZY_TOO = True` also run on each host that has lazily made layers (dynamic VRAM), with them.
"""

import json
import subprocess
from collections.abc import Iterator
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


def _makes_lazy_layers(host: Host) -> bool:
    place = host.root / "comfy" / "memory_management.py"
    return place.is_file() and "aimdo_enabled" in place.read_text(encoding="utf-8")


HOSTS = find_hosts()
LAZY_HOSTS = [LazyHost(host.root) for host in HOSTS if _makes_lazy_layers(host)]
NO_HOST = "no ComfyUI found: set COMFYUI_PATH to its folder to run these tests"
FAULTS = Path(__file__).parent / "artv_faults"
LAZY_LAYERS = Path(__file__).parent / "artv_lazy_layers"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "host" in metafunc.fixturenames:
        hosts = HOSTS + (LAZY_HOSTS if getattr(metafunc.module, "LAZY_TOO", False) else [])
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


def skip_without(host: Host) -> None:
    missing = host.missing()
    if missing:
        pytest.skip(f"{host.python} lacks what {host.root} requires: {', '.join(missing)}")


@pytest.fixture(scope="session")
def server(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    skip_without(host)
    base = tmp_path_factory.mktemp("comfyui")
    server = Server(host, base, FAULTS, *[LAZY_LAYERS] * is_lazy(host))
    for name in ("test", "other", "slow"):
        save_random_model(base / "models" / "artv" / f"{name}.safetensors")
    with server:
        yield server


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


def in_process(host: Host, check: str, base: Path, layers: str | None = None) -> Any:
    """What `in_process.py` finds, by default with the layers that the host is to be tested with."""
    skip_without(host)
    script = Path(__file__).parent / "in_process.py"
    layers = layers or ("lazy" if is_lazy(host) else "plain")
    command = [host.python, str(script), check, layers, str(PACK), str(base), "test.safetensors"]
    ran = subprocess.run(command, cwd=host.root, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])

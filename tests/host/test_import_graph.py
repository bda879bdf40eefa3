"""The core runs without a host: it never imports one, and the pack imports nothing until it is asked for its nodes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from artv_core.commands.comfyui_server import PACK

HOST_MODULES = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "nodes", "server", "execution"}
HOST_MODULES |= {"latent_preview", "node_helpers"}


def imported(path: Path) -> set[str]:
    """Top-level names of the absolute imports in a file, wherever in it they stand."""
    names = set()
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and not statement.level and statement.module:
            names.add(statement.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", sorted((PACK / "artv_core").rglob("*.py")), ids=lambda path: path.stem)
def test_core_never_imports_the_host_nor_itself_by_name(path: Path) -> None:
    assert not imported(path) & (HOST_MODULES | {"artv_core"})


@pytest.mark.parametrize("path", sorted((PACK / "nodes").rglob("*.py")), ids=lambda path: path.stem)
def test_nodes_import_the_core_relatively(path: Path) -> None:
    assert "artv_core" not in imported(path)


def test_pack_imports_nothing_when_the_host_loads_it() -> None:
    """As the host does it: by path, under a name that is a path."""
    code = (
        "import importlib.util, sys\n"
        f"name, path = {str(PACK / 'pack')!r}, {str(PACK / '__init__.py')!r}\n"
        "spec = importlib.util.spec_from_file_location(name, path)\n"
        "module = sys.modules[name] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "assert callable(module.comfy_entrypoint)\n"
        "print([name for name in sys.modules if name.startswith(('torch', 'comfy')) or 'artv_core' in name])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

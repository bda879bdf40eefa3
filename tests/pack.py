"""Modules of the node pack as a host loads them: the repository's root is a package under a name of its own."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
NAME = "artv_pack_in_tests"


def pack_module(name: str) -> ModuleType:
    """Such as `pack_module("nodes.prompt_track")`. Only modules that import no host can be had without one."""
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{NAME}.{name}")

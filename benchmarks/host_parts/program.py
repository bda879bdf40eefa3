"""`inside.py` as a program of a host's Python, in the host's folder."""

import json
import subprocess
from pathlib import Path
from typing import Any

from artv_core.commands.comfyui_server import PACK, Host

INSIDE = Path(__file__).with_name("inside.py")


def has_dynamic_vram(host: Host) -> bool:
    """Whether the host can load weights as they are used."""
    place = host.root / "comfy" / "memory_management.py"
    return place.is_file() and "aimdo_enabled" in place.read_text(encoding="utf-8")


def run_inside(host: Host, base: Path, what: str, memory: str, timeout: float = 600, **settings: Any) -> dict[str, Any]:
    """What it wrote, also where it was stopped at the end of `timeout` seconds. Raises SystemExit where it failed."""
    result = base / f"{what}_{memory}.json"
    command = [host.python, str(INSIDE), what, memory, str(PACK), str(base), str(result), json.dumps(settings)]
    try:
        ran = subprocess.run(command, cwd=host.root, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return _read(result) | {"stopped": f"after {timeout:.0f} s"}
    if ran.returncode:
        failed = f"{what}, {memory}, failed:\n{ran.stderr[-3000:]}"
        if not result.is_file():
            raise SystemExit(failed)
        return _read(result) | {"failed": failed.splitlines()[-1]}
    return _read(result)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}

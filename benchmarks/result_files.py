"""What a benchmark of several parts writes: the bars of all parts first, then what else was measured, part by part."""

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

Limits = dict[str, dict[str, tuple[str, float]]]
"""Part -> bar -> ("at least" or "at most", limit)."""


def as_result(command: str, limits: Limits, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`parts` by name, each with its values under "bars"; a bar without a value was not measured."""
    return {
        "command": command,
        "commit": commit(),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, on the CPU",
        "bars": [
            as_bar(bar, parts.get(part, {}).get("bars", {}).get(bar), *limit)
            for part, bars in limits.items()
            for bar, limit in bars.items()
        ],
        "parts": {part: parts[part] for part in limits if part in parts},
    }


def as_bar(name: str, value: float | None, kind: str, limit: float) -> dict[str, Any]:
    holds = value is not None and (value >= limit if kind == "at least" else value <= limit)
    return {"name": name, "value": value, "limit": f"{kind} {limit:g}", "holds": holds}


def verdict(bar: dict[str, Any]) -> str:
    return "not run" if bar["value"] is None else "holds" if bar["holds"] else "missed"


def kept_parts(path: Path) -> dict[str, dict[str, Any]]:
    """What an earlier run wrote of each part."""
    return json.loads(path.read_text())["parts"] if path.is_file() else {}


def commit() -> str:
    """The commit that is checked out, short."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

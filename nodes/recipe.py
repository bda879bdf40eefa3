"""What a node of a queued graph is made from."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any


def recipe_of(graph: dict[str, Any] | None, node: str | None) -> str | None:
    """A digest of a node and everything it depends on, whatever the nodes' ids. Equal digests mean equal results."""
    if graph is None or node not in graph:
        return None
    numbers = {one: number for number, one in enumerate(made_from(graph, [node]))}

    def numbered(value: Any) -> Any:
        return [numbers.get(str(value[0]), value[0]), value[1]] if _is_link(value) else value

    parts = [
        [graph[one].get("class_type"), {name: numbered(value) for name, value in graph[one].get("inputs", {}).items()}]
        for one in numbers
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def made_from(graph: dict[str, Any], nodes: Sequence[str]) -> list[str]:
    """These nodes and everything they depend on."""
    wanted, found = list(nodes), dict[str, None]()
    while wanted:
        one = wanted.pop()
        if one in found or one not in graph:
            continue
        found[one] = None
        inputs = sorted(graph[one].get("inputs", {}).items())
        wanted += [str(value[0]) for _, value in inputs if _is_link(value)]
    return list(found)


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2

"""The workflows of earlier releases: each distinct one that the repository ever had, in both formats, with the options
that its samplers gave to the core.

`python -m tests.host.releases REVISION` collects those of the history up to REVISION in `tests/host/releases/`, one
file for each commit that brought any. The options come from the pack as it was at REVISION. Needs a ComfyUI.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from artv_core.commands.comfyui_server import LINKED_AS, PACK, Graph, Host, Server, find_hosts
from artv_core.media import VideoWriter

from . import workflow_format
from .graphs import shortened

FOLDER = Path(__file__).parent / "releases"
SAMPLER = "ARTVMaskedDiffusionSampler"
SHORTER = 8
"""By this factor the videos of the tests are shorter than those of the workflows."""
START = "start.mp4"
"""The video that some of them continue."""


class Shipped(NamedTuple):
    """A workflow of an earlier release: what it is called here, and both of its formats (one may have been the same as
    before). `options` has what each sampler of the API's format gave to the core."""

    name: str
    api: Graph | None
    ui: dict[str, Any] | None
    options: dict[str, dict[str, Any]]


def shipped() -> list[Shipped]:
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        for name in sorted({*kept["api"], *kept["ui"]}):
            options = kept["options"].get(name, {})
            found.append(Shipped(f"{path.stem} {name}", kept["api"].get(name), kept["ui"].get(name), options))
    return found


# Running them


def runnable(graph: Graph, shorter: int = 1) -> Graph:
    """What makes the samplers' frames, saved as latents under their numbers. Videos are `shorter` times shorter,
    with all frames at which prompts start. A drawn picture takes SDXL's place."""
    graph = shortened(graph, shorter)
    if any(part["class_type"] == "CheckpointLoaderSimple" for part in graph.values()):
        graph = workflow_format.without_sdxl(graph)
    samplers = [key for key, part in graph.items() if part["class_type"] == SAMPLER]
    needed = {key: graph[key] for sampler in samplers for key in _sources(graph, sampler)}
    saved = {"class_type": "SaveLatent"}
    return needed | {
        f"saved {key}": saved | {"inputs": {"samples": [key, 0], "filename_prefix": key}} for key in samplers
    }


def _sources(graph: Graph, key: str) -> Iterator[str]:
    """A node with all that it needs; not the settings of files that are written while it runs."""
    yield key
    for name, value in list(graph[key]["inputs"].items()):
        if name == "stream":
            del graph[key]["inputs"][name]
        elif isinstance(value, list):
            yield from _sources(graph, value[0])


def made(server: Server, graph: Graph) -> dict[str, str]:
    """A digest of each sampler's latents. Raises RuntimeError if the graph does not run."""
    result = server.run(graph)
    if result.status != "success":
        raise RuntimeError(f"{result.status}: {result.message}")
    return {
        key.removeprefix("saved "): _digest(server.output_file(output["latents"][0]))
        for key, output in sorted(result.outputs.items())
        if "latents" in output
    }


def _digest(path: Path) -> str:
    latents = load_file(path)["latent_tensor"].contiguous()
    return hashlib.sha256(f"{latents.dtype} {list(latents.shape)}".encode() + latents.numpy().tobytes()).hexdigest()


def write_start(server: Server) -> None:
    """The video that some workflows continue: a white square that moves, two frames."""
    with VideoWriter(server.base / "input" / START, 8.0) as writer:
        for step in range(2):
            image = torch.zeros(3, 64, 64)
            image[:, 20:44, 10 + 4 * step : 34 + 4 * step] = 1
            writer.append(image)


@contextmanager
def pack_at(revision: str) -> Iterator[Path]:
    """The pack as it was at a revision, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", revision], cwd=PACK, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield Path(folder)


@contextmanager
def server_with(host: Host, pack: Path) -> Iterator[Server]:
    """A server with this pack in the place of the present one."""
    with tempfile.TemporaryDirectory() as base:
        nodes = Path(base) / "custom_nodes"
        nodes.mkdir()
        (nodes / LINKED_AS).symlink_to(pack, target_is_directory=True)
        with Server(host, Path(base)) as server:
            write_start(server)
            yield server


# Collecting them


def main() -> None:
    revision = sys.argv[1]
    FOLDER.mkdir(exist_ok=True)
    seen: set[str] = set()
    kept: dict[str, dict[str, Any]] = {}
    for number, commit in enumerate(_git("log", "--reverse", "--format=%h", revision, "--", "workflows").split()):
        fresh = _fresh(commit, seen)
        if fresh["api"] or fresh["ui"]:
            kept[f"{number:02} {commit}"] = fresh
    with pack_at(revision) as pack:
        options = _options_of(pack, {name: one["api"] for name, one in kept.items()})
    for name, one in kept.items():
        text = json.dumps({"api": one["api"], "ui": one["ui"], "options": options[name]}, separators=(",", ":"))
        (FOLDER / f"{name.replace(' ', '_')}.json").write_text(text + "\n", encoding="utf-8")


def _fresh(commit: str, seen: set[str]) -> dict[str, dict[str, Any]]:
    """The commit's workflows that no earlier one had, but for notes, positions and looks."""
    found: dict[str, dict[str, Any]] = {"api": {}, "ui": {}}
    for path in _git("ls-tree", "-r", "--name-only", commit, "workflows").split():
        if not path.endswith(".json"):
            continue
        graph = json.loads(_git("show", f"{commit}:{path}"))
        kind, core = ("api", _api_core(graph)) if "/api/" in path else ("ui", _ui_core(graph))
        if (key := f"{path} {json.dumps(core, sort_keys=True)}") not in seen:
            seen.add(key)
            found[kind][Path(path).stem] = graph
    return found


def _api_core(graph: Graph) -> Any:
    return {key: (part["class_type"], part["inputs"]) for key, part in graph.items()}


def _ui_core(graph: dict[str, Any]) -> Any:
    nodes = [node for node in graph["nodes"] if node["type"] != "Note"]
    sockets = [[(slot["name"], slot["link"]) for slot in node.get("inputs", [])] for node in nodes]
    return [[node["type"], node.get("widgets_values")] for node in nodes], sockets, graph["links"]


def _options_of(pack: Path, graphs: dict[str, Any]) -> dict[str, Any]:
    """What each sampler of the graphs gives to the core, in the host's own process, with the pack at this place."""
    host = find_hosts()[0]
    script = Path(__file__).parent / "in_process.py"
    with tempfile.TemporaryDirectory() as base:
        (Path(base) / "graphs.json").write_text(json.dumps(graphs), encoding="utf-8")
        found = Path(base) / "found.json"
        asked = json.dumps({"check": "options_of", "found": str(found), "layers": "plain", "options": {}})
        command = [host.python, str(script), str(pack), base]
        subprocess.run(command, cwd=host.root, input=asked + "\n", text=True, check=True, capture_output=True)
        return json.loads(found.read_text(encoding="utf-8"))


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=PACK, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()

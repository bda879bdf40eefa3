"""`artv demo` with ComfyUI: queues the shipped workflows in a server that it starts."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from ..files.partial_file import check_writable, replacing
from ..media import contact_sheet, read_video
from ..run.pipeline import pick_device
from .comfyui_server import PACK, Graph, Host, Result, Server

WORKFLOWS = ("text_to_video", "image_to_video", "multi_prompt_long_video")
"""The workflows that the demo queues. They need only the shipped weights."""


def has_nodes() -> bool:
    """Whether there are nodes to run in a ComfyUI: `pip install .` installs none."""
    return (PACK / "nodes").is_dir()


def obstacle(host: Host) -> str | None:
    """Why this host cannot run the demo, in a few words; None if it can."""
    if not has_nodes():
        return "ARTV was installed without its nodes; in the folder of ARTV, run: pip install -e ."
    missing = host.missing()
    return f"its Python lacks {', '.join(missing)}" if missing else None


def run_workflows(host: Host, output: Path, seed: int) -> list[Path]:
    """Queue the workflows. Their videos and a contact sheet go to `output`. Returns the paths.

    Raises ValueError if a workflow fails or the server does not start.
    """
    videos = {name: output / f"{name.replace('_', '-')}.mp4" for name in WORKFLOWS}
    sheet = output / "contact-sheet.png"
    for path in (*videos.values(), sheet):
        check_writable(path)
    processor = "--cpu" if pick_device("auto").type == "cpu" else ""
    with tempfile.TemporaryDirectory(prefix="artv-comfyui-") as base:
        try:
            with Server(host, Path(base), processor=processor) as server:
                for name, video in videos.items():
                    _run_workflow(server, name, seed, video)
        except (RuntimeError, TimeoutError, ConnectionError) as error:
            raise ValueError(f"ComfyUI {host.version} failed; try --no-comfyui. {_last_line(error)}") from None
    with replacing(sheet) as temporary:
        rows = [(name.replace("_", " "), read_video(video).float() / 255) for name, video in videos.items()]
        contact_sheet(rows).save(temporary, format="PNG")
    return [*videos.values(), sheet]


def _run_workflow(server: Server, name: str, seed: int, video: Path) -> None:
    graph = json.loads((PACK / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    with _Progress(name.replace("_", " "), graph) as progress:
        result = server.run(seeded(graph, seed), progress.show)
    if result.status != "success":
        raise ValueError(f"workflow {name}: {result.message or result.status}")
    files = [file for output in result.outputs.values() for file in output.get("images", ())]
    made = next(server.output_file(file) for file in files if file["filename"].endswith(".mp4"))
    with replacing(video) as temporary:
        shutil.copyfile(made, temporary)


class _Progress:
    """A progress bar for each node that reports progress, named after the workflow and the node."""

    def __init__(self, title: str, graph: Graph) -> None:
        self._title, self._graph = title, graph
        self._bar, self._node = tqdm(desc=title, file=sys.stderr), ""

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, result: Result) -> None:
        node, done, total = result.progress[-1]
        if node != self._node:
            self._node = node
            self._bar.reset(total)
            self._bar.set_description(
                f"{self._title}: {self._graph[node]['class_type'] if node in self._graph else node}"
            )
        self._bar.update(done - self._bar.n)


def seeded(graph: Graph, seed: int) -> Graph:
    """The same graph with this seed in every sampler."""
    return {
        key: part | {"inputs": part["inputs"] | ({"seed": seed} if "seed" in part["inputs"] else {})}
        for key, part in graph.items()
    }


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__

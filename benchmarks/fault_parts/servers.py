"""ComfyUI as the parts here need it: killed, weighed, and given graphs of the shipped checkpoint."""

import os
import re
import signal
from pathlib import Path

from artv_core.commands.comfyui_server import Graph, Result, Server
from tests.host.graphs import node, text_to_video

SHIPPED = "tiny (shipped)"
PROMPT = "a large red circle moving right fast on a blue background"
FAULTS = Path(__file__).resolve().parents[2] / "tests/host/artv_faults"


class Program(Server):
    """A server that can be killed, as by a crash, and entered again."""

    def kill(self) -> None:
        """At once, with all it has started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def memory_mb(self) -> float:
        """What it holds of the machine's memory (RSS)."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def streamed(frames: int, **sampler: object) -> Graph:
    """Text to video: streamed while it is made, decoded to a file, and a text about its journal."""
    graph = text_to_video(PROMPT, SHIPPED, **{"frames": frames, "stream": ["stream", 0]} | sampler)
    del graph["save"]
    return graph | {
        "stream": node(
            "ARTVStreamVideo", vae=["loader", 2], fps=8.0, filename_prefix="stream/test", format="mp4", upscale=1
        ),
        "video": node(
            "ARTVDecodeVideo",
            latent=["sample", 0],
            vae=["loader", 2],
            fps=8.0,
            filename_prefix="video/test",
            format="mp4",
            upscale=1,
        ),
        "journal": node("PreviewAny", source=["sample", 3]),
    }


def expect_success(result: Result) -> Result:
    """The same; ends the benchmark where the prompt failed."""
    if result.status != "success":
        raise SystemExit(f"a prompt that should succeed did not: {result.status}, {result.message}")
    return result


def newest(folder: Path, pattern: str) -> bytes:
    """The latest finished file of that kind."""
    paths = [path for path in folder.glob(pattern) if ".part." not in path.name]
    return max(paths, key=lambda path: path.stat().st_mtime_ns).read_bytes()


def held(result: Result) -> int:
    """How many frames the sampler found in its journal."""
    text = result.outputs["journal"]["text"][0]
    match = re.search(r"held (\d+) frames, (\d+) were to be made", text)
    return int(match[1]) if match else 0

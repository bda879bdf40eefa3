"""The part `prompts` of `benchmarks/faults.py`: hundreds of prompts in a row through one ComfyUI server, mixed."""

import os
import random
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artv_core.checkpoint import shipped_checkpoint
from artv_core.commands.comfyui_server import Graph, Host, Result, Server, find_hosts
from tests.host.graphs import node, text_to_video, with_video

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = "tiny (shipped)"
PROMPT = "a large red circle moving right fast on a blue background"
VIDEO = {"vae": ["loader", 2], "fps": 8.0, "format": "mp4", "upscale": 1}
ROW = "prompts in a row"
LIMITS: dict[str, tuple[str, float]] = {
    f"{ROW}: on each host": ("at least", 500),
    f"{ROW}: valid ones not answered": ("at most", 0),
    f"{ROW}: others that ended otherwise than they should": ("at most", 0),
    f"{ROW}: memory grown after warm-up, MB": ("at most", 50),
}


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
        "stream": node("ARTVStreamVideo", filename_prefix="stream/test", **VIDEO),
        "video": node("ARTVDecodeVideo", latent=["sample", 0], filename_prefix="video/test", **VIDEO),
        "journal": node("PreviewAny", source=["sample", 3]),
    }


def sampled(rng: random.Random, **settings: Any) -> Graph:
    """A short video of random size, length and seed; its latents are saved."""
    width, height = rng.choice(((0, 0), (64, 64), (48, 64), (96, 64), (96, 96)))
    chosen = {"frames": rng.randint(2, 4), "steps": rng.randint(1, 2), "seed": rng.randrange(2**32)}
    return text_to_video(PROMPT, SHIPPED, **chosen | {"width": width, "height": height} | settings)


def with_stream(rng: random.Random) -> Graph:
    return streamed(rng.randint(2, 4), steps=rng.randint(1, 2), seed=rng.randrange(2**32))


def with_journal(rng: random.Random, mode: str = "on", redo: str = "") -> Graph:
    graph = sampled(rng, journal=["journal", 0], seed=rng.randrange(8))
    return graph | {"journal": node("ARTVJournalSettings", mode=mode, start_over=False, redo=redo)}


def with_schedule(rng: random.Random, text: str = '"0": "a red circle", "2": "a blue star"') -> Graph:
    schedule = {"text": text, "pre_text": "", "app_text": "", "blend_frames": 1, "fps": 8.0}
    schedule |= {"clip": ["loader", 1], "num_frames": 0, "segment_frames": 16}
    graph = sampled(rng, positive=["schedule", 0], frames=4)
    return graph | {"schedule": node("ARTVMultiPromptScheduler", **schedule)}


def with_references(rng: random.Random, kind: str = "EmptyLatentImage") -> Graph:
    graph = sampled(rng, references=["latent", 0], width=64, height=64)
    return graph | {"latent": node(kind, width=64, height=64, batch_size=1)}


def slow(rng: random.Random) -> Graph:
    """What takes long enough to be interrupted."""
    graph = sampled(rng, model=["slow", 0], frames=8, steps=10, width=64, height=64)
    graph = changed(graph, "loader", checkpoint="slow.safetensors")
    return graph | {"slow": node("ARTVTestSlow", model=["loader", 0], seconds=0.2)}


def changed(graph: Graph, part: str, **inputs: Any) -> Graph:
    """The same with other inputs of one node."""
    graph[part]["inputs"] |= inputs
    return graph


def elsewhere(rng: random.Random) -> Graph:
    return changed(with_video(sampled(rng)), "video", filename_prefix="../../outside")


Make = Callable[[random.Random], Graph]
KINDS: dict[str, tuple[float, tuple[str, ...], tuple[Make, ...]]] = {
    "valid": (0.6, ("success",), (
        sampled, lambda rng: sampled(rng, videos=2), lambda rng: sampled(rng, vae=["loader", 2]),
        lambda rng: with_video(sampled(rng), upscale=rng.randint(1, 3)), with_stream, with_journal, with_schedule,
        lambda rng: sampled(rng, frames=33, steps=1, width=64, height=64), with_references,
    )),
    "to be refused": (0.12, ("refused",), (
        lambda rng: sampled(rng) | {"odd": node("ARTVNoSuchNode")}, lambda rng: sampled(rng, frames="many"),
        lambda rng: sampled(rng, frames=-3), lambda rng: sampled(rng, model=["loader", 1]),
    )),
    "to fail": (0.12, ("error",), (
        lambda rng: with_schedule(rng, '"0": "a red circle", "0": '), lambda rng: sampled(rng, width=60), elsewhere,
        lambda rng: with_references(rng, "EmptySD3LatentImage"), lambda rng: with_journal(rng, redo="when it rains"),
    )),
    "to be refused or fail": (0.06, ("refused", "error"), (
        lambda rng: with_journal(rng, mode="perhaps"), lambda rng: sampled(rng, sampler_name="none of these"),
        lambda rng: changed(sampled(rng), "loader", checkpoint="nowhere.safetensors"),
    )),
    "to be interrupted": (0.1, ("interrupted",), (slow,)),
}  # fmt: skip
"""Share of all, how they must end, and how they are made. Hosts differ in whether menus are checked before a run."""


def measure(seed: int, quick: bool) -> dict[str, Any]:
    hosts = {host.version: run_all(host, seed, *((40, 10) if quick else (500, 50))) for host in find_hosts()}
    if not hosts:
        raise SystemExit("no ComfyUI found: set COMFYUI_PATH to its folder")
    every = list(hosts.values())
    odd = [kind for host in every for kind, _ in host["ended otherwise than they should"]]
    values = (min(host["prompts"] for host in every), odd.count("valid"), len(odd) - odd.count("valid"))
    grown = max(host["memory grown after warm-up, MB"] for host in every)
    return {"hosts": hosts, "bars": dict(zip(LIMITS, (*values, grown), strict=True))}


def run_all(host: Host, seed: int, count: int, warm_up: int) -> dict[str, Any]:
    """One server, one prompt after the other; its memory after every tenth."""
    rng, ended, memory = random.Random(seed), Counter[str](), dict[int, float]()
    odd: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as base:
        server = Program(host, Path(base), ROOT / "tests/host/artv_faults")
        (server.base / "models/artv/slow.safetensors").write_bytes(shipped_checkpoint("tiny").read_bytes())
        with server:
            for number in range(1, count + 1):
                name = rng.choices(list(KINDS), [share for share, *_ in KINDS.values()])[0]
                _, endings, makers = KINDS[name]
                result = queue(server, rng.choice(makers)(rng), interrupt=name == "to be interrupted")
                ended[f"{name}, {result.status}"] += 1
                one_line = result.status != "error" or len(result.message.splitlines()) == 1
                if result.status not in endings or not one_line:
                    odd.append((name, f"{number}: {result.status}, {result.message[:300]}"))
                    print("  {}, {}".format(*odd[-1]), flush=True)
                if number % 10 == 0:
                    memory[number] = round(server.memory_mb, 1)
                    print(f"  ComfyUI {host.version}, prompt {number}: {memory[number]:.0f} MB", flush=True)
    most = max(value for number, value in memory.items() if number >= warm_up)
    return {
        "prompts": count,
        "ended": dict(sorted(ended.items())),
        "ended otherwise than they should": odd,
        "memory by prompts, MB": memory,
        "memory grown after warm-up, MB": round(most - memory[warm_up], 1),
    }


def queue(server: Program, graph: Graph, interrupt: bool) -> Result:
    """Queue a prompt; interrupt it as soon as it shows progress."""
    asked = []

    def stop(result: Result) -> None:
        if result.progress[-1][0] == "sample" and not asked:
            asked.append(True)
            server.interrupt()

    return server.run(graph, stop if interrupt else None)

"""Hundreds of prompts in a row through one ComfyUI server: valid, refused, failing and interrupted ones, mixed."""

import random
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artv_core.checkpoint import shipped_checkpoint
from artv_core.commands.comfyui_server import Graph, Host, Result, find_hosts
from tests.host.graphs import node, text_to_video, with_video

from .servers import FAULTS, PROMPT, SHIPPED, Program, streamed

PROMPTS, QUICK_PROMPTS = 500, 40
WARM_UP, QUICK_WARM_UP = 50, 10
WEIGHED_EVERY = 10
"""Prompts between two looks at the server's memory."""

Make = Callable[[random.Random], Graph]


def sampled(rng: random.Random, **settings: Any) -> Graph:
    """A short video of random size, length and seed; its latents are saved."""
    width, height = rng.choice(((0, 0), (64, 64), (48, 64), (96, 64), (96, 96)))
    chosen = {"frames": rng.randint(2, 4), "steps": rng.randint(1, 2), "seed": rng.randrange(2**32)}
    return text_to_video(PROMPT, SHIPPED, **chosen | {"width": width, "height": height} | settings)


def with_stream(rng: random.Random) -> Graph:
    return streamed(rng.randint(2, 4), steps=rng.randint(1, 2), seed=rng.randrange(2**32))


def with_journal(rng: random.Random, mode: str = "on", **settings: Any) -> Graph:
    graph = sampled(rng, **{"journal": ["journal", 0], "seed": rng.randrange(8)} | settings)
    return graph | {"journal": node("ARTVJournalSettings", mode=mode, start_over=False, redo="")}


def with_schedule(rng: random.Random, text: str = '"0": "a red circle", "2": "a blue star"') -> Graph:
    schedule = {"text": text, "pre_text": "", "app_text": "", "blend_frames": 1, "fps": 8.0}
    graph = sampled(rng, positive=["schedule", 0], frames=4)
    return graph | {
        "schedule": node("ARTVMultiPromptScheduler", clip=["loader", 1], num_frames=0, segment_frames=16, **schedule)
    }


def with_references(rng: random.Random, kind: str = "EmptyLatentImage") -> Graph:
    graph = sampled(rng, references=["latent", 0], width=64, height=64)
    return graph | {"latent": node(kind, width=64, height=64, batch_size=1)}


def changed(graph: Graph, part: str, **inputs: Any) -> Graph:
    """The same with other inputs of one node."""
    graph[part]["inputs"] |= inputs
    return graph


def slow(rng: random.Random) -> Graph:
    """What takes long enough to be interrupted."""
    settings = {"model": ["slow", 0], "frames": 8, "steps": 10, "width": 64, "height": 64}
    graph = changed(sampled(rng, **settings), "loader", checkpoint="slow.safetensors")
    return graph | {"slow": node("ARTVTestSlow", model=["loader", 0], seconds=0.2)}


def shorn(graph: Graph, part: str, name: str) -> Graph:
    """The same without an input of one node."""
    del graph[part]["inputs"][name]
    return graph


VALID: dict[str, Make] = {
    "latents": sampled,
    "latents of two videos": lambda rng: sampled(rng, videos=2),
    "decoded video": lambda rng: with_video(sampled(rng), upscale=rng.randint(1, 3)),
    "previews": lambda rng: sampled(rng, vae=["loader", 2]),
    "streamed video": with_stream,
    "journal": with_journal,
    "long enough for a journal": lambda rng: sampled(rng, frames=33, steps=1, width=64, height=64),
    "prompt schedule": with_schedule,
    "references": with_references,
}
REFUSED: dict[str, Make] = {
    "unknown node": lambda rng: sampled(rng) | {"odd": node("ARTVNoSuchNode")},
    "text for a number": lambda rng: sampled(rng, frames="many"),
    "number out of range": lambda rng: sampled(rng, frames=-3),
    "missing input": lambda rng: shorn(sampled(rng), "sample", "positive"),
    "wire of another type": lambda rng: sampled(rng, model=["loader", 1]),
}
FAILING: dict[str, Make] = {
    "schedule that cannot be read": lambda rng: with_schedule(rng, '"0": "a red circle", "0": '),
    "schedule beyond the frames": lambda rng: with_schedule(rng, '"0": "a red circle", "99": "a star"'),
    "latents of another model": lambda rng: with_references(rng, "EmptySD3LatentImage"),
    "size": lambda rng: sampled(rng, width=60),
    "path out of the output folder": lambda rng: changed(
        with_video(sampled(rng)), "video", filename_prefix="../../outside"
    ),
    "path of a stream out of the output folder": lambda rng: changed(
        with_stream(rng), "stream", filename_prefix="/tmp/outside"
    ),
    "redo that cannot be read": lambda rng: changed(with_journal(rng), "journal", redo="when it rains"),
}
REFUSED_OR_FAILING: dict[str, Make] = {
    "journal that is not there": lambda rng: {
        "load": node("ARTVLoadJournal", journal="../../etc/passwd", first_frame=0, frames=0),
        "show": node("PreviewAny", source=["load", 2]),
    },
    "journal mode that is not there": lambda rng: with_journal(rng, mode="perhaps"),
    "sampler that is not there": lambda rng: sampled(rng, sampler_name="none of these"),
    "checkpoint that is not there": lambda rng: changed(sampled(rng), "loader", checkpoint="nowhere.safetensors"),
}
"""Whether menus are checked before anything runs depends on the host."""

INTERRUPTED: dict[str, Make] = {"slow": slow, "slow, with a stream": lambda rng: slow_stream(rng)}


@dataclass(frozen=True)
class Kind:
    """Prompts that must end alike: their share of all, and how they are made."""

    name: str
    share: float
    endings: tuple[str, ...]
    makers: dict[str, Make]


KINDS = (
    Kind("valid", 0.60, ("success",), VALID),
    Kind("to be refused", 0.12, ("refused",), REFUSED),
    Kind("to fail", 0.12, ("error",), FAILING),
    Kind("to be refused or fail", 0.06, ("refused", "error"), REFUSED_OR_FAILING),
    Kind("to be interrupted", 0.10, ("interrupted",), INTERRUPTED),
)


def slow_stream(rng: random.Random) -> Graph:
    graph = slow(rng)
    stream = with_stream(rng)["stream"]
    return changed(graph, "sample", stream=["stream", 0]) | {"stream": stream}


def measure(seed: int, quick: bool) -> dict[str, Any]:
    hosts = {host.version: run_all(host, seed, quick) for host in find_hosts()}
    if not hosts:
        raise SystemExit("no ComfyUI found: set COMFYUI_PATH to its folder")
    return {
        "hosts": hosts,
        "bars": {
            "prompts in a row: on each host": min(host["prompts"] for host in hosts.values()),
            "prompts in a row: valid ones not answered": sum(host["valid, not answered"] for host in hosts.values()),
            "prompts in a row: others that ended otherwise than they should": sum(
                host["others, ended otherwise"] for host in hosts.values()
            ),
            "prompts in a row: memory grown after warm-up, MB": max(
                host["memory grown after warm-up, MB"] for host in hosts.values()
            ),
        },
    }


def run_all(host: Host, seed: int, quick: bool) -> dict[str, Any]:
    """One server, one prompt after the other."""
    rng = random.Random(seed)
    count, warm_up = (QUICK_PROMPTS, QUICK_WARM_UP) if quick else (PROMPTS, WARM_UP)
    ended: Counter[str] = Counter()
    odd: list[tuple[str, str]] = []
    memory: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as base:
        server = Program(host, Path(base), FAULTS)
        copy_shipped(server.base / "models/artv/slow.safetensors")
        with server:
            for number in range(1, count + 1):
                kind = rng.choices(KINDS, [kind.share for kind in KINDS])[0]
                name = rng.choice(list(kind.makers))
                result = queue(server, kind.makers[name](rng), interrupt="interrupted" in kind.endings)
                ended[f"{kind.name}, {result.status}"] += 1
                if result.status not in kind.endings or not is_one_line(result):
                    odd.append((kind.name, f"{number}, {name}: {result.status}, {result.message[:300]}"))
                if number % WEIGHED_EVERY == 0:
                    memory[number] = round(server.memory_mb, 1)
                    print(f"  ComfyUI {host.version}, prompt {number}: {memory[number]:.0f} MB", flush=True)
    for line in odd:
        print("  {}, {}".format(*line), flush=True)
    return {
        "prompts": count,
        "ended": dict(sorted(ended.items())),
        "valid, not answered": sum(kind == "valid" for kind, _ in odd),
        "others, ended otherwise": sum(kind != "valid" for kind, _ in odd),
        "ended otherwise than they should": odd,
        "memory after so many prompts, MB": memory,
        "memory grown after warm-up, MB": round(grown(memory, warm_up), 1),
    }


def queue(server: Program, graph: Graph, interrupt: bool) -> Result:
    """Queue a prompt; interrupt it as soon as it shows progress."""
    asked = []

    def stop(result: Result) -> None:
        if result.progress[-1][0] == "sample" and not asked:
            asked.append(True)
            server.interrupt()

    return server.run(graph, stop if interrupt else None)


def is_one_line(result: Result) -> bool:
    """Whether what our nodes say of an error is one line; the host's own refusals have their own form."""
    return result.status != "error" or len(result.message.splitlines()) == 1


def grown(memory: dict[int, float], warm_up: int) -> float:
    """By how much the most memory seen after the warm-up exceeds what was held at its end."""
    return max(value for number, value in memory.items() if number >= warm_up) - memory[warm_up]


def copy_shipped(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(shipped_checkpoint("tiny").read_bytes())

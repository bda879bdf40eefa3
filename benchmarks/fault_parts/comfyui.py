"""ComfyUI killed in the middle of a long prompt, started again, and given the same prompt."""

import tempfile
from pathlib import Path
from typing import Any

from artv_core.commands.comfyui_server import Graph, Host, Result, find_hosts
from artv_core.run.journal_file import JournalReader
from artv_core.run.journal_folder import FOLDER
from artv_core.run.journal_list import list_journals
from tests.host.graphs import node

from .servers import Program, expect_success, held, newest, streamed

FRAMES, QUICK_FRAMES = 200, 48
STEPS = 2
FILES = {"latents": "latents/*.latent", "decoded video": "video/*.mp4", "streamed video": "stream/*.mp4"}


def measure(seed: int, quick: bool) -> dict[str, Any]:
    hosts = {host.version: kill_and_restart(host, seed, QUICK_FRAMES if quick else FRAMES) for host in find_hosts()}
    if not hosts:
        raise SystemExit("no ComfyUI found: set COMFYUI_PATH to its folder")
    return {
        "hosts": hosts,
        "bars": {
            "ComfyUI killed: results other than the uninterrupted one's": sum(
                not same for host in hosts.values() for same in host["same"].values()
            ),
            "ComfyUI killed: most journaled frames made again": max(
                host["frames in the journal at the kill"] - host["frames not made again"] for host in hosts.values()
            ),
        },
    }


def kill_and_restart(host: Host, seed: int, frames: int) -> dict[str, Any]:
    graph = streamed(frames, steps=STEPS, seed=seed)
    graph["save"] = node("SaveLatent", samples=["sample", 0], filename_prefix="latents/test")
    with tempfile.TemporaryDirectory() as base:
        server = Program(host, Path(base))  # one folder for both: files hold the path of the checkpoint
        output, whole = server.base / "output", server.base / "whole"
        with server:
            expect_success(server.run(graph))
        output.rename(whole)
        output.mkdir()
        with server:
            seen = run_and_kill(server, graph, frames // 2)
        kept, unfinished = journaled(output), parts(output)
        with server:
            again = expect_success(server.run(graph))
        found = {
            "frames": frames,
            "frames that progress had shown at the kill": seen,
            "frames in the journal at the kill": kept,
            "unfinished videos at the kill": unfinished,
            "the journal's text afterwards": again.outputs["journal"]["text"][0],
            "frames not made again": held(again),
            "journals": len(list_journals(output / FOLDER)),
            "same": {name: newest(output, pattern) == newest(whole, pattern) for name, pattern in FILES.items()},
        }
    for name, value in found.items():
        print(f"  ComfyUI {host.version}: {name}: {value}", flush=True)
    return found


def run_and_kill(server: Program, graph: Graph, frame: int) -> int:
    """Kill the server once progress has come to that frame; how many frames it had shown as made."""
    seen = [0]

    def kill(result: Result) -> None:
        name, value, _ = result.progress[-1]
        if name == "sample":
            seen[0] = value // STEPS
        if seen[0] >= frame:
            server.kill()

    try:
        server.run(graph, kill)
    except (ConnectionError, OSError):
        return seen[0]
    raise SystemExit("the server was to be killed, and answered")


def journaled(output: Path) -> int:
    """Sound frames in the one journal there is."""
    (info,) = list_journals(output / FOLDER)
    with JournalReader(info.path) as reader:
        return reader.count_sound()


def parts(output: Path) -> list[str]:
    return [path.name for path in output.rglob("*.part.*")]

"""What survives when things go wrong: `python benchmarks/faults.py [--quick] [--parts NAME ...] [--seed N]`.

kill      `artv generate` killed at random moments, then the same command again
comfyui   ComfyUI killed in the middle of a 200-frame prompt, started, and given the same prompt
prompts   500 prompts through one ComfyUI: valid, refused, failing and interrupted ones

The parts with ComfyUI use every one in $COMFYUI_PATH, else ~/comfy/ComfyUI. Strange files are tried by
`tests/test_fuzz.py`.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
from result_files import ROOT, Figures, Limits, needed_hosts, parser_of, run_parts, succeeded
from safetensors.torch import load_file

from artv_core.checkpoint import shipped_checkpoint
from artv_core.commands.comfyui_server import Host, Result, Server
from tests.host.graphs import node
from tests.host.random_graphs import KINDS, PROMPT, streamed
from tests.killed import journaled, killed

RESULT = ROOT / "benchmarks/results/faults.json"
ROW = "prompts in a row"
LIMITS: Limits = {
    "kill": {
        "kills: trials": ("at least", 25),
        "kills: other latents than the uninterrupted run's": ("at most", 0),
        "kills: another video than the uninterrupted run's": ("at most", 0),
        "kills: most journaled frames made again": ("at most", 0),
        "kills: most journaled frames that an interrupted video lacks": ("at most", 2),
    },
    "comfyui": {
        "ComfyUI killed: results other than the uninterrupted one's": ("at most", 0),
        "ComfyUI killed: most journaled frames made again": ("at most", 0),
    },
    "prompts": {
        f"{ROW}: on each host": ("at least", 500),
        f"{ROW}: valid ones not answered": ("at most", 0),
        f"{ROW}: others that ended otherwise than they should": ("at most", 0),
        f"{ROW}: memory grown after warm-up, MB": ("at most", 50),
    },
}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--seed", type=int, default=0)
    run_parts(parser, RESULT, LIMITS, measure)


def measure(part: str, args: argparse.Namespace) -> Figures:
    """A part's figures; each gives the values of its bars in their order."""
    figures, values = {"kill": kill, "comfyui": comfyui, "prompts": prompts}[part](args.seed, args.quick)
    return {"seed": args.seed} | figures | {"bars": dict(zip(LIMITS[part], values, strict=True))}


# artv generate

FRAMES, STEPS = 40, 2
VIDEO, LATENTS = "out.mp4", "out.safetensors"


def start(folder: Path) -> subprocess.Popen[str]:
    """The command: a video that grows while it is made, its journal, and in the end its latents."""
    options = ["--frames", str(FRAMES), "--device", "cpu", "--steps", str(STEPS), "--stream"]
    files = ["-o", str(folder / VIDEO), "--save-latents", str(folder / LATENTS)]
    command = [sys.executable, "-m", "artv_core.cli", "generate", PROMPT, *options, *files]
    how = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, **how)


def generate(folder: Path) -> str:
    """Run it to its end; what was said."""
    process = start(folder)
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"a run that should succeed did not: {said}")
    return said


def results(folder: Path) -> tuple[bytes, bytes]:
    """The bytes of the latents (not of their file, whose header has no fixed order) and of the video."""
    return load_file(folder / LATENTS)["latents"].numpy().tobytes(), (folder / VIDEO).read_bytes()


def kill(seed: int, quick: bool) -> tuple[Figures, list[float]]:
    """Each trial is killed at a random time after a random frame."""
    rng, trials = random.Random(seed), []
    with tempfile.TemporaryDirectory() as base:
        (whole := Path(base) / "whole").mkdir()
        started = time.monotonic()
        generate(whole)
        frame_seconds = (time.monotonic() - started) / FRAMES
        for number in range(2 if quick else 25):
            (folder := Path(base) / str(number)).mkdir()
            kept, lacking = killed(
                start(folder), folder / VIDEO, rng.randrange(FRAMES - 1), rng.uniform(0, frame_seconds)
            )
            found = re.search(r"continuing from frame (\d+)", generate(folder))
            same = [one == other for one, other in zip(results(folder), results(whole), strict=True)]
            again = kept - (int(found[1]) if found else 0)
            trials.append({"kept": kept, "again": again, "lacking": lacking, "same latents and video": same})
            print(f"  {trials[-1]}", flush=True)
    other = [sum(not trial["same latents and video"][place] for trial in trials) for place in (0, 1)]
    most = [max(trial[name] for trial in trials) for name in ("again", "lacking")]
    return {"frames": FRAMES, "trials": trials}, [len(trials), *other, *most]


# ComfyUI


def comfyui(seed: int, quick: bool) -> tuple[Figures, list[float]]:
    found = {host.version: kill_and_restart(host, seed, 48 if quick else 200) for host in needed_hosts()}
    other = sum(not same for host in found.values() for same in host["same"].values())
    return {"hosts": found}, [other, max(host["journaled"] - host["not made again"] for host in found.values())]


def kill_and_restart(host: Host, seed: int, frames: int) -> Figures:
    graph = streamed(frames, steps=STEPS, seed=seed)
    graph["save"] = node("SaveLatent", samples=["sample", 0], filename_prefix="latents/test")
    with tempfile.TemporaryDirectory() as base:
        server = Server(host, Path(base))  # one folder for both: files hold the path of the checkpoint
        output, whole = server.base / "output", server.base / "whole"
        with server:
            succeeded(server.run(graph))
        output.rename(whole)
        output.mkdir()

        def kill_at_half(result: Result) -> None:
            name, value, _ = result.progress[-1]
            if name == "sample" and value // STEPS >= frames // 2:
                os.killpg(server._process.pid, signal.SIGKILL)
                server._process.wait()

        with server:
            try:
                server.run(graph, kill_at_half)
            except (ConnectionError, OSError):
                kept = journaled(output)
            else:
                raise SystemExit("the server was to be killed, and answered")
        with server:
            text = succeeded(server.run(graph)).outputs["journal"]["text"][0]
        held = re.search(r"(\d+) frames were already saved", text)
        files = ("latents/*.latent", "video/*.mp4", "stream/*.mp4")
        same = {pattern: newest(output, pattern) == newest(whole, pattern) for pattern in files}
    found = {"frames": frames, "journaled": kept, "not made again": int(held[1]) if held else 0, "same": same}
    print(f"  ComfyUI {host.version}: {found}", flush=True)
    return found


def newest(folder: Path, pattern: str) -> bytes:
    """The latest finished file of that kind."""
    finished = [(path.stat().st_mtime_ns, path) for path in folder.glob(pattern) if ".part." not in path.name]
    return max(finished)[1].read_bytes()


# Prompts in a row


def prompts(seed: int, quick: bool) -> tuple[Figures, list[float]]:
    found = {host.version: run_all(host, seed, *((40, 10) if quick else (500, 50))) for host in needed_hosts()}
    odd = [kind for host in found.values() for kind, _ in host["ended otherwise than they should"]]
    values = [min(host["prompts"] for host in found.values()), odd.count("valid"), len(odd) - odd.count("valid")]
    return {"hosts": found}, [*values, max(host["memory grown after warm-up, MB"] for host in found.values())]


def run_all(host: Host, seed: int, count: int, warm_up: int) -> Figures:
    """One server, one prompt after the other; its memory (RSS) after every tenth."""
    dice, ended, memory = random.Random(seed), Counter[str](), dict[int, float]()
    odd: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as base:
        server = Server(host, Path(base), ROOT / "tests/host/artv_faults")
        (server.base / "models/artv/slow.safetensors").write_bytes(shipped_checkpoint("tiny").read_bytes())
        with server:
            for number in range(1, count + 1):
                name = dice.choices(list(KINDS), [share for share, *_ in KINDS.values()])[0]
                _, ending, makers = KINDS[name]
                stop = interrupting(server) if ending == "interrupted" else None
                result = server.run(dice.choice(makers)(dice), stop)
                ended[f"{name}, {result.status}"] += 1
                one_line = result.status != "error" or len(result.message.splitlines()) == 1
                if result.status not in ending.split(" or ") or not one_line:
                    odd.append((name, f"{number}: {result.status}, {result.message[:300]}"))
                    print("  {}, {}".format(*odd[-1]), flush=True)
                if number % 10 == 0:
                    memory[number] = round(psutil.Process(server._process.pid).memory_info().rss / 2**20, 1)
                    print(f"  ComfyUI {host.version}, prompt {number}: {memory[number]} MB", flush=True)
    grown = max(value for number, value in memory.items() if number >= warm_up) - memory[warm_up]
    return {
        "prompts": count,
        "ended": dict(sorted(ended.items())),
        "ended otherwise than they should": odd,
        "memory by prompts, MB": memory,
        "memory grown after warm-up, MB": round(grown, 1),
    }


def interrupting(server: Server) -> Callable[[Result], None]:
    """What interrupts a prompt as soon as it shows progress, once."""
    asked: list[bool] = []

    def stop(result: Result) -> None:
        if result.progress[-1][0] == "sample" and not asked:
            asked.append(True)
            server.interrupt()

    return stop


if __name__ == "__main__":
    main()

"""What survives when things go wrong: `python benchmarks/faults.py [--quick] [--parts NAME ...] [--seed N]`.

kill      `artv generate` killed at random moments, then the same command again
disk      a disk that is full in the middle of it; then there is room, and the same command again (needs root: tmpfs)
comfyui   ComfyUI killed in the middle of a 200-frame prompt, started, and given the same prompt
prompts   500 prompts through one ComfyUI: valid, refused, failing and interrupted ones (`benchmarks/faults_prompts.py`)

Writes `benchmarks/results/faults.json`; what it holds of other parts is kept. The parts with ComfyUI use every one in
$COMFYUI_PATH, else ~/comfy/ComfyUI. `--quick` does a little of each part and writes nothing. Strange files are tried by
`tests/test_fuzz.py`.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import faults_prompts
from faults_prompts import PROMPT, Program, streamed
from result_files import Figures, Limits, run_parts

from artv_core.commands.comfyui_server import Host, Result, find_hosts
from artv_core.run.journal import FOLDER, JournalReader, list_journals
from tests.host.graphs import node

RESULT = ROOT / "benchmarks/results/faults.json"
LIMITS: Limits = {
    "kill": {
        "kills: trials": ("at least", 25),
        "kills: other latents than the uninterrupted run's": ("at most", 0),
        "kills: another video than the uninterrupted run's": ("at most", 0),
        "kills: journaled frames made again": ("at most", 0),
        "kills: most frames that an interrupted video lacks": ("at most", 1),
    },
    "disk": {
        "disk full: trials": ("at least", 16),
        "disk full: other than one clear error": ("at most", 0),
        "disk full: journals damaged": ("at most", 0),
        "disk full: not resumed to the same result": ("at most", 0),
    },
    "comfyui": {
        "ComfyUI killed: results other than the uninterrupted one's": ("at most", 0),
        "ComfyUI killed: most journaled frames made again": ("at most", 0),
    },
    "prompts": faults_prompts.LIMITS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    run_parts(parser, RESULT, LIMITS, measure)


def measure(part: str, args: argparse.Namespace) -> Figures:
    """A part's figures."""
    parts = {"kill": kill, "disk": disk, "comfyui": comfyui, "prompts": faults_prompts.measure}
    return {"seed": args.seed} | parts[part](args.seed, args.quick)


# artv generate

FRAMES, STEPS, PAGE, LARGE = 40, 2, 4096, 64 * 2**20
VIDEO, LATENTS = "out.mp4", "out.safetensors"


def start(folder: Path, upscale: int = 1) -> subprocess.Popen[str]:
    """The command: a video that grows while it is made, its journal, and in the end its latents."""
    command = [sys.executable, "-m", "artv_core.cli", "generate", PROMPT, "--frames", str(FRAMES), "--device", "cpu"]
    command += ["--steps", str(STEPS), "--stream", "--upscale", str(upscale)]
    command += ["-o", str(folder / VIDEO), "--save-latents", str(folder / LATENTS)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )


def generate(folder: Path, upscale: int = 1) -> tuple[int, str]:
    """Exit code, and what was said."""
    process = start(folder, upscale)
    _, said = process.communicate()
    return process.returncode, said


def results(folder: Path) -> tuple[bytes, bytes]:
    """The video, and the bits of the latents: their file's header comes in any order."""
    return (folder / VIDEO).read_bytes(), load_file(folder / LATENTS)["latents"].numpy().tobytes()


def went_on_from(said: str) -> int:
    found = re.search(r"going on from frame (\d+)", said)
    return int(found[1]) if found else 0


def journaled(folder: Path) -> tuple[bool, list[bytes]]:
    """Whether every journal there can be read to its end, and the bits of the longest one's frames."""
    longest: list[bytes] = []
    sound = True
    for info in list_journals(folder):
        with JournalReader(info.path) as reader:
            frames = [frame.latent.numpy().tobytes() for frame in reader.frames()]
            sound = sound and len(frames) == reader.num_records
        longest = max(longest, frames, key=len)
    return sound, longest


def kill(seed: int, quick: bool) -> Figures:
    """Each trial is killed at a random time after a random frame."""
    rng, trials = random.Random(seed), []
    with tempfile.TemporaryDirectory() as base:
        (whole := Path(base) / "whole").mkdir()
        started = time.monotonic()
        if generate(whole)[0]:
            raise SystemExit("the uninterrupted run failed")
        frame_seconds = (time.monotonic() - started) / FRAMES
        for number in range(2 if quick else 25):
            (folder := Path(base) / str(number)).mkdir()
            kept, lacking = killed(folder, rng.randrange(FRAMES - 1), rng.uniform(0, frame_seconds))
            code, said = generate(folder)
            same = [code == 0 and one == other for one, other in zip(results(folder), results(whole), strict=True)]
            trials.append({"kept": kept, "again": kept - went_on_from(said), "lacking": lacking, "same": same})
            print(f"  {trials[-1]}", flush=True)
    other = [sum(not trial["same"][place] for trial in trials) for place in (1, 0)]
    most = [max(trial[name] for trial in trials) for name in ("again", "lacking")]
    bars = dict(zip(LIMITS["kill"], (len(trials), *other, *most), strict=True))
    return {"frames": FRAMES, "trials": trials, "bars": bars}


def killed(folder: Path, frame: int, seconds: float) -> tuple[int, int]:
    """How many frames the journal has after the kill, and how many of them the growing video cannot show."""
    process = start(folder)
    while max((info.num_frames for info in list_journals(folder / FOLDER)), default=-1) < frame:
        if process.poll() is not None:
            raise SystemExit(f"the run ended before frame {frame}: {process.stderr.read()}")  # type: ignore[union-attr]
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept, readable = len(journaled(folder / FOLDER)[1]), 0
    whole = folder / VIDEO
    try:
        with av.open(str(whole if whole.is_file() else folder / "out.part.mp4")) as container:
            for _ in container.decode(video=0):
                readable += 1
    except (OSError, av.FFmpegError):
        pass  # up to where it cannot be read
    return kept, max(0, kept - readable)


def disk(seed: int, quick: bool) -> Figures:
    """A small tmpfs of random size, so that now the journal, now video or latents are the first that has no room."""
    rng, trials = random.Random(seed), []
    with tempfile.TemporaryDirectory() as base:
        folder, wholes = Path(base) / "disk", {}
        folder.mkdir()
        for number in range(3 if quick else 16):
            upscale = (1, 3)[number % 2]  # with the larger one the video takes most of the room
            if upscale not in wholes:
                wholes[upscale] = whole_run(folder, upscale)
            whole, frames, pages = wholes[upscale]
            mount("-t", "tmpfs", "-o", f"size={PAGE * rng.randrange(1, pages)}", "tmpfs", str(folder))
            try:
                trials.append(full_trial(folder, upscale, whole, frames))
            finally:
                subprocess.run(["umount", "--lazy", str(folder)], check=True)
            print(f"  {trials[-1]}", flush=True)
    faults = [sum(not trial[name] for trial in trials) for name in ("one clear error", "journal intact", "resumed")]
    return {"trials": trials, "bars": dict(zip(LIMITS["disk"], (len(trials), *faults), strict=True))}


def whole_run(folder: Path, upscale: int) -> tuple[tuple[bytes, bytes], list[bytes], int]:
    """Results, the journal's frames, and how many pages all that takes."""
    code, said = generate(folder, upscale)
    if code:
        raise SystemExit(f"the uninterrupted run failed: {said}")
    pages = sum(-(-path.stat().st_size // PAGE) for path in folder.rglob("*") if path.is_file())
    found = results(folder), journaled(folder / FOLDER)[1], pages
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def full_trial(folder: Path, upscale: int, whole: tuple[bytes, bytes], frames: list[bytes]) -> Figures:
    code, said = generate(folder, upscale)
    errors = re.findall(r"artv: (.+)", said)
    clear = len(errors) == 1 and "/" in errors[0] and "no space left on device" in errors[0]
    sound, kept = journaled(folder / FOLDER)
    mount("-o", f"remount,size={LARGE}", str(folder))
    again, told = generate(folder, upscale)
    return {
        "said": errors,
        "frames kept": len(kept),
        "one clear error": clear and code == 2 and "Traceback" not in said,
        "journal intact": sound and kept == frames[: len(kept)],
        "resumed": again == 0 and results(folder) == whole and went_on_from(told) == len(kept),
    }


def mount(*arguments: str) -> None:
    ran = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"this part needs a file system of its own: {ran.stderr.strip()}; try it under unshare -rm")


# ComfyUI


def comfyui(seed: int, quick: bool) -> Figures:
    hosts = {host.version: kill_and_restart(host, seed, 48 if quick else 200) for host in find_hosts()}
    if not hosts:
        raise SystemExit("no ComfyUI found: set COMFYUI_PATH to its folder")
    other = sum(not same for host in hosts.values() for same in host["same"].values())
    again = max(host["frames in the journal at the kill"] - host["frames not made again"] for host in hosts.values())
    return {"hosts": hosts, "bars": dict(zip(LIMITS["comfyui"], (other, again), strict=True))}


def kill_and_restart(host: Host, seed: int, frames: int) -> dict[str, Any]:
    graph = streamed(frames, steps=STEPS, seed=seed)
    graph["save"] = node("SaveLatent", samples=["sample", 0], filename_prefix="latents/test")
    with tempfile.TemporaryDirectory() as base:
        server = Program(host, Path(base))  # one folder for both: files hold the path of the checkpoint
        output, whole = server.base / "output", server.base / "whole"
        with server:
            succeeded(server.run(graph))
        output.rename(whole)
        output.mkdir()

        def kill_at_half(result: Result) -> None:
            name, value, _ = result.progress[-1]
            if name == "sample" and value // STEPS >= frames // 2:
                server.kill()

        with server:
            try:
                server.run(graph, kill_at_half)
            except (ConnectionError, OSError):
                pass
            else:
                raise SystemExit("the server was to be killed, and answered")
        kept = len(journaled(output / FOLDER)[1])
        with server:
            text = succeeded(server.run(graph)).outputs["journal"]["text"][0]
        held = re.search(r"held (\d+) frames", text)
        files = ("latents/*.latent", "video/*.mp4", "stream/*.mp4")
        found = {
            "frames": frames,
            "frames in the journal at the kill": kept,
            "frames not made again": int(held[1]) if held else 0,
            "same": {pattern: newest(output, pattern) == newest(whole, pattern) for pattern in files},
        }
    print(f"  ComfyUI {host.version}: {found}", flush=True)
    return found


def succeeded(result: Result) -> Result:
    """The same; ends the benchmark where the prompt failed."""
    if result.status != "success":
        raise SystemExit(f"a prompt that should succeed did not: {result.status}, {result.message}")
    return result


def newest(folder: Path, pattern: str) -> bytes:
    """The latest finished file of that kind."""
    paths = [path for path in folder.glob(pattern) if ".part." not in path.name]
    return max(paths, key=lambda path: path.stat().st_mtime_ns).read_bytes()


if __name__ == "__main__":
    main()

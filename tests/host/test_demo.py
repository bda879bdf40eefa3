"""`artv demo` through a real ComfyUI, as a user calls it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from artv_core.commands import comfyui_server as comfyui
from artv_core.commands import demo_comfyui
from artv_core.commands.comfyui_server import PACK, Graph, Host, Server, find_host
from artv_core.media import read_video

from .graphs import node, shortened, text_to_video, with_video

STEPS = 4


@pytest.fixture
def short_pack(tmp_path: Path) -> Path:
    """A copy of the pack whose workflows make videos of a quarter of their length in few steps, for time."""
    left_out = shutil.ignore_patterns(
        ".*", "__pycache__", "runs", "build", "node_modules", "tests", "benchmarks", "docs"
    )
    pack = Path(shutil.copytree(PACK, tmp_path / "pack", ignore=left_out))
    for name in demo_comfyui.WORKFLOWS:
        path = pack / "workflows" / "api" / f"{name}.json"
        graph = shortened(json.loads(path.read_text(encoding="utf-8")), 4)
        for part in graph.values():
            if "steps" in part["inputs"]:
                part["inputs"]["steps"] = STEPS
        path.write_text(json.dumps(graph), encoding="utf-8")
    return pack


def test_demo_runs_the_shipped_workflows_in_the_host(host: Host, short_pack: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "artv_core.cli", "demo", "--output", "out", "--comfyui", str(host.root)]
    environment = os.environ | {"PYTHONPATH": str(short_pack)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"using ComfyUI {host.version}" in done.stderr
    paths = [tmp_path / line for line in done.stdout.split()]
    assert [path.name for path in paths] == [
        "text-to-video.mp4",
        "image-to-video.mp4",
        "multi-prompt-long-video.mp4",
        "contact-sheet.png",
    ]
    for path, frames in zip(paths[:3], (4, 4, 12), strict=True):
        video = read_video(path).float()
        assert video.shape == (frames, 3, 512, 512)
        assert video.diff(dim=0).abs().mean() > 0.5, f"nothing moves in {path.name}"
    assert Image.open(paths[3]).width > 8 * 64
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)


def queue_prompt(server: Server, graph: Graph, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    script = str(PACK / "docs" / "queue_prompt.py")
    command = [server.host.python, script, str(tmp_path / "graph.json"), f"127.0.0.1:{server.port}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_documented_script_queues_and_waits(server: Server, tmp_path: Path) -> None:
    graph = with_video(text_to_video(seed=11, vae=["loader", 2]))
    graph["silent"] = node("VAESave", vae=["loader", 2], filename_prefix="vae/test")
    done = queue_prompt(server, graph, tmp_path)
    assert done.returncode == 0, done.stderr
    kind, subfolder, name = done.stdout.strip().split("/")
    assert len(read_video(server.output_file({"type": kind, "subfolder": subfolder, "filename": name}))) == 3
    assert "6 of 6" in done.stderr
    graph["video"]["inputs"]["filename_prefix"] = "video/again"
    again = queue_prompt(server, graph, tmp_path)  # now ComfyUI says of the other one, too, that it was executed
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("output/video/again")


def test_the_documented_script_says_what_went_wrong(server: Server, tmp_path: Path) -> None:
    refused = queue_prompt(server, {"1": {"class_type": "NoSuchNode", "inputs": {}}}, tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("refused: ")
    assert "NoSuchNode" in refused.stderr
    failed = queue_prompt(server, text_to_video(width=60), tmp_path)
    assert failed.returncode == 1
    assert "60" in failed.stderr
    graph = text_to_video() | {"other": node("SaveImage", filename_prefix="x")}
    partly = queue_prompt(server, graph, tmp_path)  # ComfyUI makes the one output and refuses the other
    assert partly.returncode == 1
    assert partly.stderr.startswith('partly refused: {\n  "other": ')
    assert "Required input is missing" in partly.stderr
    command = [server.host.python, PACK / "docs" / "queue_prompt.py", "none.json"]
    missing = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (missing.returncode, missing.stderr) == (1, "cannot read none.json: No such file or directory\n")


def comfyui_at(folder: Path) -> Path:
    """What is recognised as a ComfyUI; it could not run."""
    (folder / "comfy_api").mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "requirements.txt").write_text("no-such-package>=1\ntorchaudio\n")
    return folder


def test_hosts_are_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, named, around, default = (
        comfyui_at(tmp_path / name) for name in ("given", "named", "around", "home/comfy/ComfyUI")
    )
    monkeypatch.setattr(comfyui, "PACK", around / "custom_nodes" / "pack")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setenv("COMFYUI_PATH", os.pathsep.join([str(tmp_path / "nothing"), str(named)]))
    assert find_host(given) == Host(given)
    assert find_host() == Host(named)
    monkeypatch.delenv("COMFYUI_PATH")
    assert find_host() == Host(around)
    monkeypatch.setattr(comfyui, "PACK", tmp_path / "elsewhere" / "pack")
    monkeypatch.chdir(tmp_path)
    assert find_host() == Host(default)
    (default / "main.py").unlink()
    assert find_host() is None
    with pytest.raises(ValueError, match="there is no ComfyUI at"):
        find_host(tmp_path)


def test_a_host_that_cannot_run_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(comfyui_at(tmp_path / "host"))
    assert host.version == "unknown"
    assert demo_comfyui.obstacle(host) == "its Python lacks no-such-package"
    command = [sys.executable, "-m", "artv_core.cli", "demo", "--output", str(tmp_path), "--comfyui", str(host.root)]
    done = subprocess.run(command, cwd=PACK, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "its Python lacks no-such-package" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    monkeypatch.setattr(demo_comfyui, "PACK", tmp_path)
    remedy = "in the folder of ARTV, run: pip install -e ."
    assert demo_comfyui.obstacle(host) == f"ARTV was installed without its nodes; {remedy}"


def test_seeds_go_into_every_sampler() -> None:
    graph = {"1": {"class_type": "A", "inputs": {"seed": 1, "steps": 2}}, "2": {"class_type": "B", "inputs": {"x": 3}}}
    seeded = demo_comfyui.seeded(graph, 9)
    assert seeded["1"]["inputs"] == {"seed": 9, "steps": 2}
    assert seeded["2"] == graph["2"]
    assert graph["1"]["inputs"]["seed"] == 1

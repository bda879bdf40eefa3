"""ARTV Drift Readout in a real ComfyUI: file, table and picture are the core's, and its errors are plain."""

from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artv_core.commands.comfyui_server import Graph, Result, Server
from artv_core.method.options import GenerateOptions
from artv_core.run.drift import DriftMeter, DriftReading, drift_table, read_drift_csv
from artv_core.run.pipeline import DecodedFrame, Pipeline

from .graphs import STEPS, node, text_to_video

PROMPT = "a red circle moving right"
FRAMES = 4


def readout(sampler: dict[str, Any] | None = None, **inputs: Any) -> Graph:
    """loader, text, sample, drift, and csv, which shows where the file is."""
    graph = text_to_video(PROMPT, **{"frames": FRAMES} | (sampler or {}))
    wires = {"latent": ["sample", 0], "vae": ["loader", 2], "mask": ["sample", 1]}
    defaults = {"anchor_frame": 0, "filename_prefix": "drift/test"}
    graph["drift"] = node("ARTVDriftReadout", **wires | defaults | inputs)
    graph["csv"] = node("PreviewAny", source=["drift", 2])
    del graph["save"]
    return graph


def csv_file(server: Server, result: Result) -> Path:
    assert result.status == "success", result.message
    (name,) = result.outputs["csv"]["text"]
    return server.base / "output" / name


@pytest.fixture(scope="session")
def frames(server: Server) -> list[DecodedFrame]:
    """What the core makes of the same settings."""
    core = Pipeline.from_checkpoint(server.base / "models" / "artv" / "test.safetensors")
    return list(core.frames(PROMPT, GenerateOptions(num_frames=FRAMES, seed=7, steps=STEPS)))


def core_readings(frames: list[DecodedFrame], anchor: int = 0, masked: bool = True) -> list[DriftReading]:
    meter = DriftMeter(frames[anchor].image[0])
    masks = [frame.mask[0, 0] if masked and frame.mask is not None else None for frame in frames]
    return [meter.read(frame.index, frame.image[0], mask) for frame, mask in zip(frames, masks, strict=True)]


def assert_same(found: list[DriftReading], expected: list[DriftReading]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert astuple(one) == pytest.approx(astuple(other), abs=1e-4)


def test_file_has_a_row_for_every_frame_and_says_what_the_core_says(server: Server, frames: list[DecodedFrame]) -> None:
    result = server.run(readout())
    path = csv_file(server, result)
    assert path.parent.name == "drift"
    assert path.name.startswith("test_")
    found = read_drift_csv(path)
    assert_same(found, core_readings(frames))
    assert any(reading.copied > 0 for reading in found)
    assert (found[0].shift, found[0].spread, found[0].sharpness, found[0].distance) == (0, 1, 1, 0)
    assert result.outputs["drift"]["text"] == [drift_table(found)]
    assert max(value for name, value, _ in result.progress if name == "drift") == FRAMES


def test_plot_is_shown_on_the_node_and_goes_out_as_an_image(server: Server) -> None:
    graph = readout() | {"save": node("SaveImage", images=["drift", 1], filename_prefix="plots/test")}
    result = server.run(graph)
    assert result.status == "success", result.message
    shown, saved = (server.output_file(result.outputs[name]["images"][0]) for name in ("drift", "save"))
    with Image.open(shown) as picture, Image.open(saved) as same:
        pixels = np.array(picture.convert("RGB"))
        assert (pixels == np.array(same.convert("RGB"))).all()
    assert pixels.shape == (750, 1000, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 5


def test_other_anchor_without_a_mask(server: Server, frames: list[DecodedFrame]) -> None:
    graph = readout(anchor_frame=2)
    del graph["drift"]["inputs"]["mask"]
    found = read_drift_csv(csv_file(server, server.run(graph)))
    assert_same(found, core_readings(frames, anchor=2, masked=False))
    assert found[2].distance == 0 < found[0].distance
    assert {reading.copied for reading in found} == {0}


def test_every_run_and_every_video_has_a_file_of_its_own(server: Server) -> None:
    result = server.run(readout({"videos": 2}, filename_prefix="several/test"))
    assert result.status == "success", result.message
    files = sorted((server.base / "output" / "several").iterdir())
    assert [file.name for file in files] == ["test_00001_.csv", "test_00002_.csv"]
    first, second = map(read_drift_csv, files)
    assert len(first) == len(second) == FRAMES
    assert first != second
    again = server.run(readout(anchor_frame=1, filename_prefix="several/test"))
    assert csv_file(server, again).name == "test_00003_.csv"


def test_without_matplotlib_text_and_file_are_there(server: Server) -> None:
    graph = readout(latent=["hide", 0], filename_prefix="plain/test")
    graph["hide"] = node("ARTVTestPlotLibrary", latent=["sample", 0], there=False)
    try:
        result = server.run(graph)
    finally:
        graph["hide"]["inputs"]["there"] = True
        restored = server.run(graph)
    found = read_drift_csv(csv_file(server, result))
    assert len(found) == FRAMES
    assert result.outputs["drift"]["text"] == [drift_table(found)]
    with Image.open(server.output_file(result.outputs["drift"]["images"][0])) as picture:
        assert len(picture.convert("RGB").getcolors()) == 1
    assert "ARTV Drift Readout: the plot needs matplotlib: pip install matplotlib" in server.log_text()
    with Image.open(server.output_file(restored.outputs["drift"]["images"][0])) as picture:
        assert picture.size == (1000, 750)


WRONG = {
    "outside": (readout(filename_prefix="../../outside"), "leads out of the output folder; give a name inside it"),
    "absolute": (readout(filename_prefix="/tmp/artv-outside"), "leads out of the output folder"),
    "folder is a file": (readout(filename_prefix="blocked/drift"), "filename_prefix 'blocked/drift' cannot be used"),
    "anchor frame": (readout(anchor_frame=FRAMES), "anchor_frame is 4, but the latent has 4 frames, 0 to 3"),
    "mask of another video": (
        readout(mask=["other", 0]) | {"other": node("SolidMask", value=1.0, width=8, height=8)},
        "the mask has 1 frames, the latent 4; connect both from the same sampler",
    ),
    "video latent": (
        readout(latent=["other", 0])
        | {"other": node("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1)},
        "expected the latents of images",
    ),
}


@pytest.mark.parametrize(("graph", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_clear_sentence_and_nothing_is_written(server: Server, graph: Graph, message: str) -> None:
    (server.base / "output" / "blocked").touch()
    before = everything(server)
    result = server.run(graph)
    assert result.status == "error", result.error
    assert message in result.message
    assert len(result.message.splitlines()) == 1
    assert result.error["exception_type"].endswith("ValueError")
    assert everything(server) == before


def everything(server: Server) -> set[Path]:
    """Files in the output folder, and where the wrong prefixes lead."""
    outside = [*server.base.parent.glob("outside*"), *server.base.glob("outside*"), *Path("/tmp").glob("artv-outside*")]
    return {*(server.base / "output").rglob("*"), *outside}

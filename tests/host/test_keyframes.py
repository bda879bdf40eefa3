"""ARTV Keyframes, and an anchor for each prompt, in a real ComfyUI: frames are the core's, a stopped run continues, and
the page and the files get every frame."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from artv_core.checkpoint import load_checkpoint
from artv_core.commands.comfyui_server import Graph, Server
from artv_core.media import read_image, read_video
from artv_core.method.frames import AnchorPolicy
from artv_core.method.options import GenerateOptions
from artv_core.run.journal_list import list_journals
from artv_core.run.pipeline import Pipeline

from .graphs import STEPS, node, text_to_video
from .test_nodes import scheduled

LAZY_TOO = ("test_keyframes_are_the_cores",)
PROMPT = "a red circle moving right"
PROMPTS = "0: a red circle\n3: a blue star"
COLOURS = ((200, 40, 40), (40, 60, 200))


@pytest.fixture(scope="session")
def core(server: Server) -> Pipeline:
    return Pipeline(load_checkpoint(server.base / "models" / "artv" / "test.safetensors"))


@pytest.fixture
def pictures(server: Server) -> list[Path]:
    """Two pictures of the size of the video in the host's input folder."""
    paths = [server.base / "input" / f"keyframe{number}.png" for number in range(len(COLOURS))]
    for path, colour in zip(paths, COLOURS, strict=True):
        Image.new("RGB", (64, 64), colour).save(path)
    return paths


def batch(*names: str) -> Graph:
    """Nodes that load pictures and make one LATENT of them: the last is "latents"."""
    graph = {f"load{n}": node("LoadImage", image=name) for n, name in enumerate(names)}
    images: Any = ["load0", 0]
    for n in range(1, len(names)):
        graph[f"batch{n}"] = node("ImageBatch", image1=images, image2=[f"load{n}", 0])
        images = [f"batch{n}", 0]
    return graph | {"latents": node("VAEEncode", pixels=images, vae=["loader", 2])}


def placed(positions: str = "2, 4", frames: int = 6, count: int = 2, **sampler: Any) -> Graph:
    names = [f"keyframe{number}.png" for number in range(count)]
    return (
        text_to_video(PROMPT, keyframes=["keyframes", 0], frames=frames, **sampler)
        | batch(*names)
        | {"keyframes": node("ARTVKeyframes", latent=["latents", 0], positions=positions)}
    )


def empty(positions: str, pictures: int = 1, width: int = 64, **sampler: Any) -> Graph:
    return text_to_video(PROMPT, keyframes=["keyframes", 0], **sampler) | {
        "latents": node("EmptyLatentImage", width=width, height=64, batch_size=pictures),
        "keyframes": node("ARTVKeyframes", latent=["latents", 0], positions=positions),
    }


def run(server: Server, graph: Graph) -> Tensor:
    result = server.run(graph)
    assert result.status == "success", result.message
    return load_file(server.output_file(result.outputs["save"]["latents"][0]))["latent_tensor"]


def core_latents(core: Pipeline, prompts: Any, frames: int = 6, cfg_anchor: float | None = None, **inputs) -> Tensor:
    options = GenerateOptions(num_frames=frames, seed=7, steps=STEPS, guidance_anchor=cfg_anchor)
    return torch.cat([frame.latent for frame in core.frames(prompts, options, **inputs)])


def encoded(core: Pipeline, path: Path) -> Tensor:
    return core.encode_image(read_image(path, 64, 64))


# Keyframes


def test_keyframes_are_the_cores(server: Server, core: Pipeline, pictures: list[Path]) -> None:
    made = run(server, placed())
    latents = [encoded(core, path) for path in pictures]
    expected = core_latents(core, PROMPT, keyframes={2: latents[0], 4: latents[1]})
    assert (made - expected).abs().max() < 1e-3
    assert (made - core_latents(core, PROMPT)).abs()[:2].max() < 1e-4
    assert (made - core_latents(core, PROMPT)).abs()[2:].max() > 1e-2


def test_the_video_has_the_size_of_its_keyframes(server: Server) -> None:
    latents = run(server, empty("1", width=128))
    assert latents.shape == (3, 4, 8, 16)


def test_a_keyframe_at_frame_0_is_a_reference(server: Server, pictures: list[Path]) -> None:
    by_keyframe = run(server, placed("0", count=1))
    graph = text_to_video(PROMPT, references=["latents", 0], frames=6) | batch("keyframe0.png")
    assert torch.equal(by_keyframe, run(server, graph))


def test_all_videos_have_the_keyframes(server: Server, pictures: list[Path]) -> None:
    result = server.run(placed("2", count=1, videos=2))
    assert result.status == "success", result.message
    one, other = (load_file(server.output_file(file))["latent_tensor"] for file in result.outputs["save"]["latents"])
    assert torch.equal(one[2], other[2])
    assert not torch.equal(one[3], other[3])


def one_by_one(frames: int = 6, **sampler: Any) -> Graph:
    """Two keyframes, each from a node of its own: "first" at frame 2, and "second" with the one at frame 4 too."""
    encoded = {f"encode{n}": node("VAEEncode", pixels=[f"load{n}", 0], vae=["loader", 2]) for n in range(2)}
    settings = {"frames": frames, "seed": 4321, "keyframes": ["second", 0]} | sampler
    return (
        text_to_video(PROMPT, **settings)
        | encoded
        | {
            "load0": node("LoadImage", image="keyframe0.png"),
            "load1": node("LoadImage", image="keyframe1.png"),
            "first": node("ARTVKeyframes", latent=["encode0", 0], positions="2"),
            "second": node("ARTVKeyframes", latent=["encode1", 0], positions="4", keyframes=["first", 0]),
        }
    )


def test_keyframes_can_be_added_one_by_one(server: Server, pictures: list[Path]) -> None:
    assert (run(server, one_by_one()) - run(server, placed(seed=4321))).abs().max() < 1e-4


def test_a_stopped_run_continues_and_redo_keeps_keyframes(server: Server, pictures: list[Path]) -> None:
    def journaled(frames: int, redo: str = "", keyframes: str = "second") -> Graph:
        return one_by_one(frames, journal=["journal", 0], keyframes=[keyframes, 0]) | {
            "journal": node("ARTVJournalSettings", mode="on", start_over=False, redo=redo),
            "said": node("PreviewAny", source=["sample", 3]),
        }

    folder = server.base / "output" / "artv_journals"
    before = {journal.path for journal in list_journals(folder)} if folder.is_dir() else set()
    whole = run(server, one_by_one())
    run(server, journaled(3, keyframes="first"))
    result = server.run(journaled(6))
    assert "3 frames were already saved, 3 had to be made" in result.outputs["said"]["text"][0]
    resumed = load_file(server.output_file(result.outputs["save"]["latents"][0]))["latent_tensor"]
    assert torch.equal(resumed, whole)
    redone = run(server, journaled(6, redo="4: 99"))
    assert torch.equal(redone[:5], whole[:5])
    assert not torch.equal(redone[5], whole[5])
    for journal in list_journals(folder):
        if journal.path not in before:
            journal.path.unlink()


def test_a_page_that_watches_gets_every_frame(server: Server, pictures: list[Path]) -> None:
    graph = placed("2, 5", vae=["loader", 2], seed=77)
    result = server.run(graph, watch=True)
    assert result.status == "success", result.message
    messages = [message for message in result.live if message["node"] == "sample"]
    assert messages[-1]["state"] == "finished"
    readings = {reading[0]: reading for message in messages for reading in message["readings"]}
    assert sorted(readings) == list(range(6))
    assert readings[2][3] == readings[5][3] == 0  # nothing of a keyframe is copied
    assert readings[4][3] > 0
    last = [picture for message in messages for picture in message["pictures"]][-1]
    assert (last["index"], last["mask"]) == (5, None)
    assert result.progress[-1][1:] == (6 * STEPS, 6 * STEPS)


def test_a_stream_has_the_keyframes(server: Server, pictures: list[Path]) -> None:
    graph = placed(stream=["stream", 0], seed=78) | {
        "stream": node(
            "ARTVStreamVideo", vae=["loader", 2], fps=8.0, filename_prefix="keyframes/s", format="mkv", upscale=1
        )
    }
    result = server.run(graph)
    assert result.status == "success", result.message
    shown = result.outputs["sample"]
    (file,) = next(value for name, value in shown.items() if name in ("images", "video", "gifs"))
    assert len(read_video(server.output_file(file))) == 6


def test_drift_readout_reads_a_video_with_keyframes(server: Server, pictures: list[Path]) -> None:
    graph = placed() | {
        "drift": node(
            "ARTVDriftReadout",
            latent=["sample", 0],
            vae=["loader", 2],
            mask=["sample", 1],
            anchor_frame=2,
            filename_prefix="keyframes/drift",
        )
    }
    result = server.run(graph)
    assert result.status == "success", result.message
    rows = result.outputs["drift"]["text"][0].splitlines()[1:]
    assert float(rows[2].split()[5]) == 0  # the anchor frame is the keyframe
    assert float(rows[1].split()[5]) > 0


SMALL = text_to_video(PROMPT, keyframes=["keyframes", 0], width=64, height=64)["sample"]
SECOND = text_to_video(PROMPT, keyframes=["second", 0])["sample"]
TWICE = node("ARTVKeyframes", latent=["latents", 0], positions="1", keyframes=["keyframes", 0])
NOT_KEYFRAMES: dict[str, tuple[Graph, str]] = {
    "beyond the video": (empty("8"), "a keyframe is at frame 8, but the video has 3 frames, 0 to 2"),
    "too few pictures": (empty("0, 1"), "the number of pictures is 1, the number of positions 2"),
    "too many pictures": (empty("1", 3), "the number of pictures is 3, the number of positions 1"),
    "all frames": (empty("0 1 2", 3), "all 3 frames are given, so none is left to make"),
    "two nodes": (
        empty("1") | {"sample": SECOND, "second": TWICE},
        "frame 1 has two keyframes; give each picture a frame of its own",
    ),
    "references": (
        empty("0", references=["given", 0]) | {"given": node("EmptyLatentImage", width=64, height=64, batch_size=1)},
        "frame 0 is given twice: as a keyframe, and as one of the first frames (0 to 0); move the keyframe to 1",
    ),
    "size": (empty("1", width=128) | {"sample": SMALL}, "the keyframes' image is 128x64 pixels, the video 64x64"),
    "channels": (
        empty("1") | {"latents": node("EmptySD3LatentImage", width=64, height=64, batch_size=1)},
        "the keyframes' latent has 16 channels, this model's latents have 4",
    ),
    "video latent": (
        empty("1") | {"latents": node("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1)},
        "the keyframes' latent is 1x16x2x8x8, expected the latents of images",
    ),
}


@pytest.mark.parametrize(("graph", "message"), NOT_KEYFRAMES.values(), ids=NOT_KEYFRAMES)
def test_keyframes_that_do_not_fit_are_one_clear_sentence(server: Server, graph: Graph, message: str) -> None:
    result = server.run(graph)
    assert result.status == "error", result.error
    assert message in result.message
    assert len(result.message.splitlines()) == 1


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ("0, two", "positions contains 'two'; give whole numbers of frames, as in '0, 16, 32'"),
        ("-1", "positions contains '-1'"),
        (" ", "positions contains nothing"),
        ("1, 4, 01", "positions names frame 1 twice; give each picture a frame of its own"),
    ],
)
def test_positions_are_checked_before_the_run(server: Server, positions: str, message: str) -> None:
    result = server.run(empty(positions))
    assert result.status == "refused", result
    (error,) = result.error["node_errors"]["keyframes"]["errors"]
    assert message in error["details"]


# An anchor for each prompt


CFG_ANCHOR = 20.0
"""So strong that an untrained model shows which anchor it sees."""


def anchored(count: int, prompts: str = PROMPTS) -> Graph:
    return (
        scheduled(prompts, anchor=["anchor", 0], frames=6, cfg_anchor=CFG_ANCHOR)
        | batch(*[f"keyframe{number}.png" for number in range(count)])
        | {
            "anchor": node(
                "ARTVAnchorFrame", policy="given image per prompt", strength=1.0, window=10, latent=["latents", 0]
            ),
        }
    )


def test_each_prompt_has_its_own_anchor(server: Server, core: Pipeline, pictures: list[Path]) -> None:
    made = run(server, anchored(2))
    anchors = tuple(encoded(core, path) for path in pictures)
    prompts = [(0, "a red circle"), (3, "a blue star")]
    one, both, swapped = (
        core_latents(core, prompts, cfg_anchor=CFG_ANCHOR, anchor=AnchorPolicy("given", by_segment=pair))
        for pair in ((anchors[0], anchors[0]), anchors, anchors[::-1])
    )
    apart = (one - both).abs().max()
    assert apart > 2e-3
    assert (made - both).abs().max() < 0.2 * apart
    assert (made - swapped).abs().max() > 0.8 * apart


@pytest.mark.parametrize(("count", "prompts"), [(1, PROMPTS), (2, "0: a red circle")])
def test_as_many_anchor_images_as_prompts(server: Server, pictures: list[Path], count: int, prompts: str) -> None:
    result = server.run(anchored(count, prompts))
    assert result.status == "error"
    assert f"the number of anchor images is {count}, the number of prompts {3 - count}; give one" in result.message
    assert len(result.message.splitlines()) == 1


def test_an_anchor_for_each_prompt_needs_a_latent(server: Server) -> None:
    graph = anchored(1)
    del graph["anchor"]["inputs"]["latent"]
    result = server.run(graph)
    assert result.status == "error"
    assert "the policy is 'given image per prompt', but no latent is connected" in result.message


def test_wrong_sizes_of_anchors(server: Server) -> None:
    graph = anchored(1) | {"latents": node("EmptyLatentImage", width=128, height=64, batch_size=2)}
    result = server.run(graph)
    assert result.status == "error"
    assert "the anchor's image is 128x64 pixels, the video 64x64" in result.message

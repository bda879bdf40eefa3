"""ARTV Step Masks in a real ComfyUI: the frame made again is the sampler's, its masks are those behind the copy mask,
and a LATENT that no longer fits is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from artv_core.checkpoint import save_checkpoint, shipped_names
from artv_core.commands.comfyui_server import Graph, Host, Result, Server
from artv_core.models.artv import ARTV
from tests.models import smallest_config
from tests.pack import pack_module

from .conftest import InProcess, checkpoint_in
from .graphs import node, text_to_video

REFUSED = {
    "references, video 0": [0, 1],
    "keyframes, video 0": [0, 3],
}
"""The frames that were given, of 5. All others can be made again."""


def in_another_scale() -> ARTV:
    """An untrained model whose latents ComfyUI has in another scale, so that converting them loses their last bits."""
    config = smallest_config()
    torch.manual_seed(0)
    model = ARTV(replace(config, vae=replace(config.vae, scale=0.18215, shift=0.0609)))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    model.update_null_context()
    return model


def test_every_frame_can_be_made_again_to_the_bit(in_process: InProcess, host: Host, tmp_path: Path) -> None:
    save_checkpoint(in_another_scale(), checkpoint_in(tmp_path))
    found = in_process(host, "frames_again", tmp_path)
    assert "the model is not the one that made the latent" in found.pop("patched model")
    assert len(found) == 15
    for name, video in found.items():
        refused = [frame for frame, _ in video["refused"]]
        assert refused == REFUSED.get(name, []), name
        assert video["exact"] == [True] * (5 - len(refused)), name
        assert video["masks"] < 1e-6, name
        for frame, message in video["refused"]:
            assert f"frame {frame} was given, not made, so it has no steps; choose a frame that" in message


def test_latents_are_brought_back_to_the_bit() -> None:
    frame_request = pack_module("nodes.frame_request")
    scale, shift = 0.18215, 0.0609
    core = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(0))
    core[0, 0, :4] = torch.tensor([0.0, -0.0, 1e-30, -1e-30])
    host = core / scale + shift
    back = (host - shift) * scale
    assert not torch.equal(core, back)
    record = frame_request.FrameRecord()
    record.add(host, core, back)
    assert record.exact(0, back).view(torch.int32).equal(core.view(torch.int32))


# On a server


def steps_graph(frame: int = 2, between: Graph | None = None, **changes: Any) -> Graph:
    """The sampler, and its masks by step. `between` has nodes that its latent passes through, the last one "last"."""
    latent = ["last", 0] if between else ["sample", 0]
    settings = {"model": ["loader", 0], "latent": latent, "frame": frame} | changes
    return (
        text_to_video(steps=3)
        | (between or {})
        | {
            "steps": node("ARTVStepMasks", **settings),
            "image": node("MaskToImage", mask=["steps", 0]),
            "masks": node("SaveImage", images=["image", 0], filename_prefix="steps/masks"),
            "copied": node("MaskToImage", mask=["sample", 1]),
            "copy_mask": node("SaveImage", images=["copied", 0], filename_prefix="steps/copy_mask"),
            "sheet": node("SaveImage", images=["steps", 1], filename_prefix="steps/sheet"),
        }
    )


def pictures(server: Server, result: Result, name: str) -> np.ndarray:
    files = [server.output_file(shown) for shown in result.outputs[name]["images"]]
    return np.stack([np.array(Image.open(file).convert("RGB")) for file in files])


def test_masks_and_sheet_come_out(server: Server) -> None:
    result = server.run(steps_graph())
    assert result.status == "success", result.message
    masks, copied = (pictures(server, result, name)[..., 0] / 255 for name in ("masks", "copy_mask"))
    assert masks.shape == (3, 8, 8)
    assert np.abs(masks.mean(axis=0) - copied[2]).max() < 2 / 255
    assert np.abs(masks[0] - masks[2]).max() > 1 / 255
    (sheet,) = pictures(server, result, "sheet")
    shown = np.array(Image.open(server.output_file(result.outputs["steps"]["images"][0])).convert("RGB"))
    assert np.abs(sheet.astype(int) - shown).max() <= 1
    assert sheet.shape[0] > 200
    assert sheet.shape[1] > 3 * 190


def test_the_sheet_shows_the_picture_of_each_step(server: Server) -> None:
    alone = pictures(server, server.run(steps_graph()), "sheet")
    result = server.run(steps_graph(vae=["loader", 2]))
    assert result.status == "success", result.message
    beside = pictures(server, result, "sheet")
    assert beside.shape[2] > 1.8 * alone.shape[2]
    grey, coloured = ((sheet.max(axis=-1) - sheet.min(axis=-1)).max() for sheet in (alone, beside))
    assert grey == 0  # masks and captions
    assert coloured > 0


def test_a_frame_without_a_frame_before_has_masks_of_0(server: Server) -> None:
    result = server.run(steps_graph(0))
    assert result.status == "success", result.message
    assert not pictures(server, result, "masks").any()


def test_the_sampler_does_not_run_again_for_another_frame(server: Server) -> None:
    server.run(steps_graph(1))
    result = server.run(steps_graph(2))
    assert "steps" in result.executed
    assert "sample" not in result.executed


def test_the_first_frames_of_a_latent_are_enough(server: Server) -> None:
    direct, picked, repeated = (
        server.run(steps_graph(1, between))
        for between in (
            None,
            {"last": node("LatentFromBatch", samples=["sample", 0], batch_index=0, length=2)},
            {"last": node("RepeatLatentBatch", samples=["sample", 0], amount=2)},
        )
    )
    for result in (direct, picked, repeated):
        assert result.status == "success", result.message
        assert np.array_equal(pictures(server, result, "masks"), pictures(server, direct, "masks"))


NOT_THE_SAMPLERS = "the frames up to it are not those that the sampler made; connect the sampler's latent directly"
WRONG: dict[str, tuple[Graph, str]] = {
    "another latent": (
        steps_graph(1, {"last": node("EmptyLatentImage", width=64, height=64, batch_size=3)}),
        "the latent does not say how its frames were made; connect the latent of ARTV Masked Diffusion Sampler",
    ),
    "put together again": (
        steps_graph(1, {"last": node("RebatchLatents", latents=["sample", 0], batch_size=2)}),
        "the latent does not say how its frames were made",
    ),
    "later frames": (
        steps_graph(1, {"last": node("LatentFromBatch", samples=["sample", 0], batch_index=1, length=2)}),
        NOT_THE_SAMPLERS,
    ),
    "too few frames": (
        steps_graph(2, {"last": node("LatentFromBatch", samples=["sample", 0], batch_index=0, length=2)}),
        NOT_THE_SAMPLERS,
    ),
    "changed frames": (
        steps_graph(1, {"last": node("LatentFlip", samples=["sample", 0], flip_method="y-axis: horizontally")}),
        NOT_THE_SAMPLERS,
    ),
    "repeated frames": (
        steps_graph(4, {"last": node("RepeatLatentBatch", samples=["sample", 0], amount=2)}),
        "there is no frame 4; the video has 3 frames, 0 to 2",
    ),
    "a given frame": (
        steps_graph(0)
        | {
            "sample": text_to_video(steps=3, references=["given", 0])["sample"],
            "given": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        },
        "frame 0 was given, not made, so it has no steps; choose a frame that the sampler made, such as 1",
    ),
}


@pytest.mark.parametrize(("graph", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_in_one_clear_sentence(server: Server, graph: Graph, message: str) -> None:
    result = server.run(graph)
    assert result.status == "error", result.error
    assert message in result.message
    assert len(result.message.splitlines()) == 1


@pytest.mark.skipif("tiny" not in shipped_names(), reason="no checkpoint is shipped")
def test_another_model_is_refused(server: Server) -> None:
    other = {"other": node("ARTVLoader", checkpoint="tiny (shipped)", base="none")}
    result = server.run(steps_graph(1, model=["other", 0]) | other)
    assert result.status == "error"
    assert "the model is not the one that made the latent" in result.message

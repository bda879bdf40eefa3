"""The nodes in a real ComfyUI: they load, make what the core makes, are cached, stop when told, say what is wrong."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from artv_core.checkpoint import load_checkpoint, save_checkpoint
from artv_core.commands.comfyui_server import Result, Server
from artv_core.method.frames import AnchorPolicy
from artv_core.method.options import GenerateOptions
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.models.artv import ARTV
from artv_core.run.pipeline import Pipeline

from .graphs import STEPS, node, text_to_video, with_video

LAZY_TOO = (
    "test_pack_loads_without_error",
    "test_native_clip_and_vae_are_the_cores",
    "test_frames_equal_the_cores",
    "test_image_to_video",
    "test_lora_changes_what_it_names",
    "test_out_of_memory_is_an_error_of_that_prompt_alone",
    "test_trained_part_with_its_base",
    "test_damaged_checkpoint_is_one_clear_sentence",
)
PROMPT = "a red circle moving right"
NODES = {
    "ARTVLoader",
    "ARTVMaskedDiffusionSampler",
    "ARTVMultiPromptScheduler",
    "ARTVAnchorFrame",
    "ARTVNoiseAugment",
    "ARTVFitImage",
    "ARTVKeyframes",
    "ARTVDecodeVideo",
    "ARTVDriftReadout",
    "ARTVStepMasks",
    "ARTVLoRA",
    "ARTVStreamVideo",
    "ARTVJournalSettings",
    "ARTVLoadJournal",
    "ARTVJournals",
    "ARTVShortcutSettings",
}


@pytest.fixture(scope="session")
def core(server: Server) -> Pipeline:
    """Its weights are not packed, since one test changes some."""
    return Pipeline(load_checkpoint(server.base / "models" / "artv" / "test.safetensors"))


def saved_latents(server: Server, node_name: str = "save", index: int = 0) -> Tensor:
    files = sorted((server.base / "output" / "latents").glob("*.latent"), key=lambda path: path.stat().st_mtime_ns)
    return load_file(files[-1 - index])["latent_tensor"]


def core_latents(core: Pipeline, prompts, anchor: AnchorPolicy | None = None, given=None, **options) -> Tensor:
    settings = GenerateOptions(**{"num_frames": 3, "seed": 7, "steps": STEPS} | options)
    frames = core.frames(prompts, settings, anchor=anchor, given=given)
    return torch.cat([frame.latent for frame in frames])


def write_image(server: Server, name: str = "start.png", size: tuple[int, int] = (64, 64)) -> str:
    width, height = size
    pixels = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    Image.fromarray(pixels).save(server.base / "input" / name)
    return name


def test_pack_loads_without_error(server: Server) -> None:
    log = server.log_text()
    assert "main" in log or "custom nodes" in log
    assert not [line for line in log.splitlines() if "IMPORT FAILED" in line and "artv" in line.lower()]
    assert "Error while calling comfy_entrypoint" not in log


def test_every_node_is_there_with_tooltips(server: Server) -> None:
    info = server.get("/object_info")
    assert set(info) >= NODES
    for name in NODES:
        assert info[name]["category"] == "ARTV"
        assert info[name]["description"]
        inputs = info[name]["input"]
        for group in ("required", "optional"):
            for input_name, (_, options) in inputs.get(group, {}).items():
                assert options.get("tooltip"), f"{name}.{input_name} has no tooltip"
        assert all(info[name]["output_tooltips"]), f"an output of {name} has no tooltip"


def test_native_clip_and_vae_are_the_cores(server: Server, core: Pipeline) -> None:
    """One frame with cfg 1 and the core's latents decoded by the host: both text and VAE are compared end to end."""
    assert server.run(text_to_video(PROMPT)).status == "success"
    expected = core_latents(core, PROMPT)
    assert (saved_latents(server) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        {"cfg": 3.0, "cfg_anchor": 2.0, "cfg_references": 1.5},
        {"sampler_name": "euler", "scheduler": "karras"},
        {"width": 80, "height": 48},
    ],
    ids=["guidance", "sampler", "size"],
)
def test_frames_equal_the_cores(server: Server, core: Pipeline, settings: dict) -> None:
    names = {
        "cfg": "guidance_text",
        "cfg_anchor": "guidance_anchor",
        "cfg_references": "guidance_references",
        "sampler_name": "sampler",
        "scheduler": "spacing",
    }
    assert server.run(text_to_video(PROMPT, **settings)).status == "success"
    expected = core_latents(core, PROMPT, **{names.get(name, name): value for name, value in settings.items()})
    assert (saved_latents(server) - expected).abs().max() < 1e-4


def test_seeds_come_back_as_videos_of_their_own(server: Server, core: Pipeline) -> None:
    graph = text_to_video(PROMPT, videos=2)
    before = len(list((server.base / "output" / "latents").glob("*")))
    assert server.run(graph).status == "success"
    assert len(list((server.base / "output" / "latents").glob("*"))) == before + 2
    assert (saved_latents(server, index=0) - core_latents(core, PROMPT, seed=8)).abs().max() < 1e-4
    assert (saved_latents(server, index=1) - core_latents(core, PROMPT, seed=7)).abs().max() < 1e-4


def test_long_prompt_is_read_to_its_end(server: Server) -> None:
    words = "a large red circle moving right fast on a blue background "
    graphs = [text_to_video(words * 6 + ending) for ending in ("and a star", "and a triangle")]
    results = []
    for graph in graphs:
        assert server.run(graph).status == "success"
        results.append(saved_latents(server))
    assert (results[0] - results[1]).abs().max() > 1e-4


def test_image_to_video(server: Server, core: Pipeline) -> None:
    graph = text_to_video(PROMPT, references=["encode", 0]) | {
        "image": node("LoadImage", image=write_image(server)),
        "encode": node("VAEEncode", pixels=["image", 0], vae=["loader", 2]),
    }
    assert server.run(graph).status == "success"
    pixels = torch.from_numpy(np.array(Image.open(server.base / "input" / "start.png")))
    image = pixels.permute(2, 0, 1)[None].float() / 255
    expected = core_latents(core, PROMPT, given=[core.encode_image(image)])
    assert (saved_latents(server) - expected).abs().max() < 1e-4


def test_a_picture_of_any_size_is_made_to_fit(server: Server, core: Pipeline) -> None:
    graph = text_to_video(PROMPT, references=["encode", 0]) | {
        "image": node("LoadImage", image=write_image(server, "wide.png", (200, 128))),
        "fit": node("ARTVFitImage", model=["loader", 0], image=["image", 0], width="auto", height="auto"),
        "encode": node("VAEEncode", pixels=["fit", 0], vae=["loader", 2]),
    }
    result = server.run(graph)
    assert result.status == "success", result.message
    pixels = torch.from_numpy(np.array(Image.open(server.base / "input" / "wide.png")))
    middle = pixels[:, 36:164].permute(2, 0, 1)[None].float() / 255  # 128 of 200 columns
    expected = core_latents(core, PROMPT, given=[core.encode_image(torch.nn.functional.avg_pool2d(middle, 2))])
    assert (saved_latents(server) - expected).abs().max() < 1e-4

    graph["fit"]["inputs"] |= {"width": 96, "height": 128}
    assert server.run(graph).status == "success"
    assert saved_latents(server).shape[-2:] == (16, 12)
    graph["fit"]["inputs"]["width"] = 100
    refused = server.run(graph)
    assert "width is 100; accepted are multiples of 8 up to 16384, such as 96" in refused.message


def scheduled(text: str, **sampler) -> dict:
    graph = text_to_video(positive=["schedule", 0], **sampler)
    graph["schedule"] = node(
        "ARTVMultiPromptScheduler",
        clip=["loader", 1],
        text=text,
        pre_text="",
        app_text="",
        blend_frames=0,
        fps=8.0,
        num_frames=0,
        segment_frames=16,
    )
    return graph


def test_texts_around_prompts_are_advanced_and_keep_their_places(server: Server) -> None:
    inputs = server.get("/object_info")["ARTVMultiPromptScheduler"]["input"]["required"]
    assert list(inputs)[:5] == ["clip", "text", "pre_text", "app_text", "blend_frames"], (
        "workflows save values in order"
    )
    for name, where in (("pre_text", "before"), ("app_text", "after")):
        assert inputs[name][1]["advanced"]
        assert inputs[name][1]["display_name"] == f"text {where} every prompt"
    assert [name for name, (_, options) in inputs.items() if options.get("advanced")] == ["pre_text", "app_text"]


def test_two_prompts_follow_one_another(server: Server, core: Pipeline) -> None:
    """With the paper's anchor rule: the second prompt's anchor is the last frame of the first."""
    graph = scheduled('"0": "a red circle", "2": "a blue star"', frames=4)
    result = server.run(graph)
    assert result.status == "success", result.message
    expected = core_latents(core, [(0, "a red circle"), (2, "a blue star")], num_frames=4)
    assert (saved_latents(server) - expected).abs().max() < 1e-4


def test_two_native_texts_are_averaged(server: Server, core: Pipeline) -> None:
    graph = text_to_video("a red circle", positive=["both", 0]) | {
        "second": node("CLIPTextEncode", clip=["loader", 1], text="a blue star"),
        "both": node("ConditioningCombine", conditioning_1=["text", 0], conditioning_2=["second", 0]),
    }
    assert server.run(graph).status == "success"
    texts = [core.encode_prompts(text).context(0) for text in ("a red circle", "a blue star")]
    track = TextTrack([TextSegment(0, (texts[0] + texts[1]) / 2)])
    assert (saved_latents(server) - core_latents(core, track)).abs().max() < 1e-4


def test_negative(server: Server, core: Pipeline) -> None:
    graph = text_to_video(PROMPT, negative=["without", 0], cfg=2.0, cfg_first_frame=2.0) | {
        "without": node("CLIPTextEncode", clip=["loader", 1], text="a blue star")
    }
    assert server.run(graph).status == "success"
    settings = GenerateOptions(num_frames=3, seed=7, steps=STEPS, guidance_text=2.0, first_frame_guidance=2.0)
    frames = core.frames(PROMPT, settings, negative="a blue star")
    assert (saved_latents(server) - torch.cat([frame.latent for frame in frames])).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("policy", "kind"), [("first frame", "first"), ("rolling window", "rolling"), ("none", "none")]
)
def test_anchor_policies(server: Server, core: Pipeline, policy: str, kind: str) -> None:
    graph = text_to_video(PROMPT, anchor=["anchor", 0], noise_augment=["noise", 0]) | {
        "anchor": node("ARTVAnchorFrame", policy=policy, strength=1.0, window=2),
        "noise": node("ARTVNoiseAugment", reference_level=0, anchor_level=5),
    }
    assert server.run(graph).status == "success"
    anchor = AnchorPolicy(kind, window=2)
    expected = core_latents(core, PROMPT, anchor, reference_noise_level=0, anchor_noise_level=5)
    assert (saved_latents(server) - expected).abs().max() < 1e-4


def test_return_to_anchor(server: Server, core: Pipeline) -> None:
    """A number counts as it is; auto is what the checkpoint recommends, here none."""
    for typed, reach in ((0.5, 0.5), ("auto", None)):
        graph = text_to_video(PROMPT, anchor=["anchor", 0]) | {
            "anchor": node("ARTVAnchorFrame", policy="first frame", strength=1.0, window=2, return_to_anchor=typed),
        }
        assert server.run(graph).status == "success"
        expected = core_latents(core, PROMPT, AnchorPolicy("first"), return_to_anchor=reach)
        assert (saved_latents(server) - expected).abs().max() < 1e-4
    assert (expected - core_latents(core, PROMPT, AnchorPolicy("first"), return_to_anchor=0.5)).abs().max() > 1e-3


def test_noise_levels_by_frame(server: Server, core: Pipeline) -> None:
    graph = text_to_video(PROMPT, noise_augment=["noise", 0]) | {
        "noise": node("ARTVNoiseAugment", reference_level=-1, anchor_level=3, reference_levels="0: 5\n2: 40")
    }
    assert server.run(graph).status == "success"
    expected = core_latents(core, PROMPT, reference_noise_level=((0, 5), (2, 40)), anchor_noise_level=3)
    assert (saved_latents(server) - expected).abs().max() < 1e-4
    assert (saved_latents(server) - core_latents(core, PROMPT)).abs().max() > 1e-4


def test_shortcuts(server: Server, core: Pipeline) -> None:
    settings = {"reuse_every": 3, "reuse_blocks": 2}
    graph = text_to_video(PROMPT, shortcuts=["shortcuts", 0], steps=4, cfg=2.0) | {
        "shortcuts": node("ARTVShortcutSettings", **settings, guidance_from=0.3, guidance_to=1.0)
    }
    assert server.run(graph).status == "success"
    made, plain = saved_latents(server), core_latents(core, PROMPT, steps=4, guidance_text=2.0)
    expected = core_latents(core, PROMPT, steps=4, guidance_text=2.0, guidance_interval=(0.3, 1.0), **settings)
    assert (made - expected).abs().max() < 1e-4
    assert (made - plain).abs().max() > 1e-3


def test_given_anchor_image(server: Server, core: Pipeline) -> None:
    graph = text_to_video(PROMPT, anchor=["anchor", 0]) | {
        "image": node("LoadImage", image=write_image(server)),
        "encode": node("VAEEncode", pixels=["image", 0], vae=["loader", 2]),
        "anchor": node("ARTVAnchorFrame", policy="given image", strength=1.0, window=10, latent=["encode", 0]),
    }
    assert server.run(graph).status == "success"
    assert (saved_latents(server) - core_latents(core, PROMPT)).abs().max() > 1e-4


def lora_graph(name: str, strength: float) -> dict:
    return text_to_video(PROMPT, model=["lora", 0]) | {
        "lora": node("ARTVLoRA", model=["loader", 0], lora_name=name, strength=strength, strength_clip=1.0),
        "report": node("PreviewAny", source=["lora", 2]),
    }


def test_lora_changes_what_it_names(server: Server, core: Pipeline) -> None:
    """In the names that diffusers trains with; compared with the core, whose weight is changed by hand."""
    torch.manual_seed(1)
    up, down = torch.randn(128, 4), torch.randn(4, 128) * 0.2
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down, f"{stem}.alpha": torch.tensor(2.0)}
    tensors["lora_unet_nothing_of_the_kind.lora_up.weight"] = torch.zeros(1, 1)
    wrong = stem.replace("to_q", "to_k")
    tensors |= {f"{wrong}.lora_up.weight": torch.zeros(8, 4), f"{wrong}.lora_down.weight": torch.zeros(4, 8)}
    (server.base / "models" / "loras").mkdir(exist_ok=True)
    save_file(tensors, server.base / "models" / "loras" / "test.safetensors")

    result = server.run(lora_graph("test.safetensors", 0.5))
    assert result.status == "success", result.message
    report = result.outputs["report"]["text"][0].splitlines()
    assert report[0] == "1 weights changed"
    assert report[1] == "1 unknown keys: lora_unet_nothing_of_the_kind.lora_up.weight"
    assert report[2].startswith("1 that do not fit: noise.diffusion_model.middle_block.1")

    weight = core.model.noise.diffusion_model.middle_block[1].transformer_blocks[0].attn1.to_q.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight += 0.5 * (2.0 / 4) * up @ down
        expected = core_latents(core, PROMPT)
        weight.copy_(before)
    assert (saved_latents(server) - expected).abs().max() < 1e-4
    assert server.run(text_to_video(PROMPT, seed=7, steps=STEPS + 1)).status == "success"
    unchanged = core_latents(core, PROMPT, steps=STEPS + 1)
    assert (saved_latents(server) - unchanged).abs().max() < 1e-4


def test_lora_that_fits_nothing_is_one_clear_sentence(server: Server) -> None:
    (server.base / "models" / "loras").mkdir(exist_ok=True)
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(1, 1)}, server.base / "models" / "loras" / "odd.safetensors")
    result = server.run(lora_graph("odd.safetensors", 1.0))
    assert result.status == "error"
    assert result.message.startswith("nothing in odd.safetensors fits this model")


def test_video_file(server: Server) -> None:
    graph = with_video(text_to_video(PROMPT, frames=4, vae=["loader", 2]), upscale=2)
    workflow = {"nodes": [], "version": 0.4}
    result = server.run(graph, extra_pnginfo={"workflow": workflow})
    assert result.status == "success"
    assert result.previews > 0
    assert max(value for _, value, _ in result.progress) == 4 * STEPS
    with av.open(str(server.output_file(result.outputs["video"]["images"][0]))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        tags = container.metadata
    assert [frame.shape for frame in frames] == [(128, 128, 3)] * 4
    assert json.loads(tags["workflow"]) == workflow
    assert json.loads(tags["prompt"])["sample"]["inputs"]["frames"] == 4
    assert "is_changed" not in tags["prompt"]
    assert str(server.base) not in tags["prompt"]


def test_small_videos_are_enlarged_unless_a_number_says_how_much(server: Server) -> None:
    graph = with_video(text_to_video(PROMPT, frames=1, width=96, height=64, stream=["stream", 0]))
    stream = {"vae": ["loader", 2], "fps": 8.0, "filename_prefix": "video/stream", "format": "mp4"}
    graph["stream"] = node("ARTVStreamVideo", upscale="auto", **stream)
    for typed, size in (("auto", (384, 256)), ("auto (4)", (384, 256)), (1, (96, 64)), ("3", (288, 192))):
        graph["video"]["inputs"]["upscale"] = graph["stream"]["inputs"]["upscale"] = typed
        result = server.run(graph)
        assert result.status == "success", result.message
        for output in ("video", "sample"):
            with av.open(str(server.output_file(result.outputs[output]["images"][0]))) as file:
                assert (file.streams.video[0].width, file.streams.video[0].height) == size
    graph["video"]["inputs"]["upscale"] = 17
    assert "upscale is 17; give 16 at most, or auto" in server.run(graph).message


def test_native_nodes_read_the_outputs(server: Server) -> None:
    graph = text_to_video(PROMPT) | {
        "decode": node("VAEDecode", samples=["sample", 0], vae=["loader", 2]),
        "create": node("CreateVideo", images=["decode", 0], fps=8.0),
        "native": node("SaveVideo", video=["create", 0], filename_prefix="native", format="auto", codec="auto"),
        "mask": node("MaskToImage", mask=["sample", 1]),
        "masks": node("SaveImage", images=["mask", 0], filename_prefix="masks"),
        "drift": node("PreviewAny", source=["sample", 2]),
    }
    result = server.run(graph)
    assert result.status == "success", result.message
    assert len(result.outputs["masks"]["images"]) == 3
    assert "motion" in result.outputs["drift"]["text"][0]


def test_same_prompt_is_served_from_the_cache(server: Server) -> None:
    graph = text_to_video(PROMPT, seed=101)
    assert "sample" in server.run(graph).executed
    again = server.run(graph)
    assert again.status == "success"
    assert again.executed == []
    other = server.run(text_to_video(PROMPT, seed=102))
    assert other.executed == ["sample", "save"]


def test_interrupt_stops_within_a_step_and_the_next_prompt_runs(server: Server) -> None:
    seen = []

    def stop(result: Result) -> None:
        if not seen:
            server.interrupt()
        seen.append(result.progress[-1][1])

    graph = text_to_video(PROMPT, frames=8, steps=10, sampler_name="euler", model=["slow", 0]) | {
        "slow": node("ARTVTestSlow", model=["loader", 0], seconds=0.5)
    }
    graph["loader"]["inputs"]["checkpoint"] = "slow.safetensors"
    result = server.run(graph, stop)
    assert result.status == "interrupted"
    assert len(seen) <= 2, "the step that ran when the request came may end, no other may begin"
    assert server.run(text_to_video(PROMPT, seed=202)).status == "success"


def test_out_of_memory_is_an_error_of_that_prompt_alone(server: Server) -> None:
    graph = text_to_video(PROMPT, seed=301, model=["fault", 0], checkpoint="other.safetensors") | {
        "fault": node("ARTVTestOutOfMemory", model=["loader", 0], after=4)
    }
    result = server.run(graph)
    assert result.status == "error"
    assert "OutOfMemory" in result.error["exception_type"]
    again = server.run(text_to_video(PROMPT, seed=301, checkpoint="other.safetensors"))
    assert again.status == "success", again.message


WRONG = {
    "channels": (
        text_to_video(references=["latent", 0])
        | {"latent": node("EmptySD3LatentImage", width=64, height=64, batch_size=1)},
        "has 16 channels, this model's latents have 4",
    ),
    "video latent": (
        text_to_video(references=["latent", 0])
        | {"latent": node("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1)},
        "expected the latents of images",
    ),
    "size of references": (
        text_to_video(references=["latent", 0], width=64, height=64)
        | {"latent": node("EmptyLatentImage", width=128, height=64, batch_size=1)},
        "the references' image is 128x64 pixels, the video 64x64",
    ),
    "nothing left to make": (
        text_to_video(references=["latent", 0])
        | {"latent": node("EmptyLatentImage", width=64, height=64, batch_size=3)},
        "frames is 3, and you gave 3 of them",
    ),
    "no anchor image": (
        text_to_video(anchor=["anchor", 0])
        | {"anchor": node("ARTVAnchorFrame", policy="given image", strength=1.0, window=10)},
        "no latent is connected",
    ),
    "several anchor images": (
        text_to_video(anchor=["anchor", 0])
        | {
            "latent": node("EmptyLatentImage", width=64, height=64, batch_size=2),
            "anchor": node("ARTVAnchorFrame", policy="given image", strength=1.0, window=10, latent=["latent", 0]),
        },
        "contains 2 images, expected 1",
    ),
    "size of the anchor": (
        text_to_video(anchor=["anchor", 0])
        | {
            "latent": node("EmptyLatentImage", width=128, height=64, batch_size=1),
            "anchor": node("ARTVAnchorFrame", policy="given image", strength=1.0, window=10, latent=["latent", 0]),
        },
        "the anchor's image is 128x64 pixels, the video 64x64",
    ),
    "noise level": (
        text_to_video(noise_augment=["noise", 0])
        | {"noise": node("ARTVNoiseAugment", reference_level=1000, anchor_level=-1)},
        "reference_noise_level is 1000",
    ),
    "schedule beyond the frames": (
        scheduled('"0": "a", "24": "b"'),
        "a prompt starts at frame 24, but the video has 3 frames, 0 to 2",
    ),
    "CLIP of another width": (
        text_to_video(positive=["wide", 0]) | {"wide": node("ARTVTestWideText")},
        "positive comes from a CLIP that is 1024 wide, this model reads text 48 wide",
    ),
    "output folder": (
        with_video(text_to_video()) | {"video": with_video(text_to_video())["video"]},
        "leads out of the output folder",
    ),
}
WRONG["output folder"][0]["video"]["inputs"]["filename_prefix"] = "../../outside"


@pytest.mark.parametrize(("graph", "message"), WRONG.values(), ids=WRONG)
def test_wrong_wiring_is_one_clear_sentence(server: Server, graph: dict, message: str) -> None:
    result = server.run(graph)
    assert result.status == "error", result.error
    assert message in result.message
    assert len(result.message.splitlines()) == 1
    assert result.error["exception_type"].endswith(("ValueError", ".PromptScheduleError"))  # a ValueError with a place


def test_trained_part_with_its_base(server: Server, core: Pipeline) -> None:
    """A file of branches and mask network alone, over a base that has the rest."""
    models = server.base / "models"
    save_checkpoint(
        core.model, models / "artv" / "part.safetensors", parts=("branches", "mask"), base="base.safetensors"
    )
    save_checkpoint(core.model, models / "checkpoints" / "base.safetensors")
    graph = text_to_video(PROMPT, checkpoint="part.safetensors")
    alone = server.run(graph)
    assert alone.status == "error"
    assert "needs its base checkpoint (base.safetensors)" in alone.message
    assert "menu 'base'" in alone.message
    graph["loader"]["inputs"]["base"] = "base.safetensors"
    result = server.run(graph)
    assert result.status == "success", result.message
    assert (saved_latents(server) - core_latents(core, PROMPT)).abs().max() < 1e-4


def test_loader_tells_about_the_model(server: Server, core: Pipeline) -> None:
    untrained = ARTV(core.model.config)
    save_checkpoint(untrained, server.base / "models" / "artv" / "untrained.safetensors")
    for name, expected in (("test", False), ("untrained", True)):
        graph = {
            "loader": node("ARTVLoader", checkpoint=f"{name}.safetensors", base="none"),
            "about": node("PreviewAny", source=["loader", 3]),
        }
        text = server.run(graph).outputs["about"]["text"][0]
        assert text.startswith("tiny: 64x64 pixels, 8 frames per second")
        assert ("is untrained" in text) == expected


@pytest.mark.parametrize("name", ["nowhere.safetensors", "../../../etc/passwd", "../test.safetensors (shipped)"])
def test_unknown_checkpoint_is_refused_with_the_list(server: Server, name: str) -> None:
    result = server.run(text_to_video(checkpoint=name))
    assert result.status in ("refused", "error")  # older hosts leave it to the node
    assert "there is no checkpoint" in result.message or "not in" in result.message or "comes with" in result.message


def test_damaged_checkpoint_is_one_clear_sentence(server: Server) -> None:
    path = server.base / "models" / "artv" / "damaged.safetensors"
    path.write_bytes(Path(server.base / "models" / "artv" / "test.safetensors").read_bytes()[:5000])
    try:
        result = server.run(text_to_video(checkpoint="damaged.safetensors"))
    finally:
        path.unlink()
    assert result.status == "error"
    assert "truncated" in result.message
    assert len(result.message.splitlines()) == 1

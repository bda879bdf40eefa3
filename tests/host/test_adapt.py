"""ARTV Adapt Model in a real ComfyUI: Stable Diffusion models of the graph with ComfyUI's own nodes around them."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from artv_core.checkpoint import load_checkpoint, save_checkpoint
from artv_core.commands.comfyui_server import Graph, Host, Server
from artv_core.media import read_video
from tests.models import write_public_base

from . import sd_files
from .conftest import InProcess, is_lazy, makes_lazy_layers
from .graphs import SAMPLER_DEFAULTS, node

LAZY_TOO = (
    "test_the_result_is_the_loaders_and_weights_are_shared",
    "test_loras_of_the_graph_are_carried_over",
    "test_low_rank_changes_in_the_file",
    "test_weights_come_back_from_a_card_without_a_copy",
    "test_hooks_and_other_devices_get_a_second_copy",
    "test_compiled",
    "test_a_graph_of_native_nodes_makes_a_video",
)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of `sd_files`, written once: they are large."""
    folder = tmp_path_factory.mktemp("sd_files")
    sd_files.write_sd1(folder / sd_files.BASE)
    sd_files.write_adapter(folder / sd_files.ADAPTER)
    for seed, name in enumerate(sd_files.LORAS):
        sd_files.write_lora(folder / name, seed)
    return folder


@pytest.fixture(scope="session")
def sd2_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Stable Diffusion 2.x file and an ARTV file for it."""
    folder = tmp_path_factory.mktemp("sd2_files")
    config = sd_files.sd2_config()
    write_public_base(folder / "sd2.safetensors", config)
    sd_files.write_adapter(folder / "adapter2.safetensors", config)
    changed, whole = folder / "adapter2-lora.safetensors", folder / "adapter2-merged.safetensors"
    sd_files.write_adapter(changed, config, lora_rank=4)
    merged = load_checkpoint(changed, base=folder / "sd2.safetensors", without=("vae", "text"))
    save_checkpoint(merged, whole, dtype=torch.float32)
    return folder


PLACES = {"adapter": "artv", "sd": "checkpoints"}
"""The folder of a file, by the beginning of its name; the others are LoRAs."""


def link(files: Path, base: Path) -> Path:
    """Put the files where a host looks for them."""
    for file in files.iterdir():
        folder = next((folder for start, folder in PLACES.items() if file.name.startswith(start)), "loras")
        place = base / "models" / folder
        place.mkdir(parents=True, exist_ok=True)
        if not (place / file.name).exists():
            os.link(file, place / file.name)
    return base


@pytest.fixture
def base(files: Path, tmp_path: Path) -> Path:
    return link(files, tmp_path)


def layers_of(host: Host) -> list[str]:
    return ["lazy", "dynamic"] if is_lazy(host) else ["plain"]


def test_the_result_is_the_loaders_and_weights_are_shared(in_process: InProcess, host: Host, base: Path) -> None:
    for layers in layers_of(host):
        check_equal(in_process(host, "adapt_plain", base, layers))


def test_stable_diffusion_2_too(in_process: InProcess, host: Host, tmp_path: Path, sd2_files: Path) -> None:
    link(sd2_files, tmp_path)
    check_equal(in_process(host, "adapt_plain_sd2", tmp_path))


def test_low_rank_changes_in_the_file(in_process: InProcess, host: Host, tmp_path: Path, sd2_files: Path) -> None:
    """By both nodes they give what they give in the core, which adds them to the weights."""
    link(sd2_files, tmp_path)
    for layers in layers_of(host):
        found = in_process(host, "adapt_own_lora", tmp_path, layers)
        print(layers, found)
        assert found["digests"] == 1
        assert found["about"] == f"{found['layers']} weights are changed by LoRAs or other patches"
        if found["dynamic"]:  # on a CPU, a patcher of dynamic VRAM applies no LoRA to large weights
            continue
        # With lazy layers on a CPU, ComfyUI keeps the file's float16, and rounds a patched weight to that.
        assert found["latents"] <= (1e-2 * found["changed"] if is_lazy(host) else 0)
        assert found["changed"] > 1e-2
        assert found["merged"] < 1e-2 * found["changed"]


def check_equal(found: dict[str, Any]) -> None:
    print(found)
    assert found["digests"] == 1, "a journal of ARTV Loader goes on"
    assert found["latents"] == 0
    assert found["text"] == 0
    assert found["images"] == 0
    assert found["went on"]
    assert found["size"] > 0.1
    for whole, shared, copied in found["shared"]:
        assert whole == shared
        assert copied == 0


def test_loras_of_the_graph_are_carried_over(in_process: InProcess, host: Host, base: Path) -> None:
    found = in_process(host, "adapt_loras", base)
    print(found)
    assert found["digests"] == 1, "a journal of ARTV Loader and two ARTV LoRA nodes goes on"
    assert found["digests, stacked"] == 1
    # With lazy layers on a CPU, ComfyUI keeps the file's float16, and rounds a patched weight to that.
    assert found["latents"] <= (1e-3 * found["changed"] if is_lazy(host) else 0)
    assert found["stacked"] == 0
    assert found["text"] == 0
    assert found["changed"] > 1e-2
    assert found["about"] == "4 weights are changed by LoRAs or other patches"
    whole, shared, copied = found["shared"]
    assert (shared, copied) == (whole, 0)


def test_the_hosts_own_runs_and_ours_do_not_disturb_each_other(in_process: InProcess, host: Host, base: Path) -> None:
    found = in_process(host, "adapt_between_runs", base)
    print(found)
    assert found["in place"], "the host has patched weights when the model is adapted"
    assert found["adapted"] == [0, 0, 0], (
        "with a LoRA, without, and with one that the host has written into the weights"
    )
    assert found["changed"] > 1e-2
    assert found["the host's"] == 0
    assert found["the host's without LoRA"] == 0
    assert found["the LoRA has an effect"] > 1e-3


def test_weights_come_back_from_a_card_without_a_copy(in_process: InProcess, host: Host, base: Path) -> None:
    for devices, (whole, shared, copied), difference in in_process(host, "adapt_on_a_card", base).values():
        assert devices == ["meta"]
        assert (shared, copied) == (whole, 0)
        assert difference == 0


def test_hooks_and_other_devices_get_a_second_copy(in_process: InProcess, host: Host, base: Path) -> None:
    for layers in layers_of(host):
        found = in_process(host, "adapt_again", base, layers)
        print(layers, found)
        if not found:
            assert host.version < "0.33", "only older hosts ask for no second one"
            return
        assert found["same"] == 0
        assert found["apart"]
        assert found.get("difference", 0) == 0


def test_weights_of_8_bits(in_process: InProcess, host: Host, base: Path) -> None:
    found = in_process(host, "adapt_stored_smaller", base)
    print(found)
    assert found["types"][0] == "torch.float8_e4m3fn"
    assert found["types"][1] in ("torch.float16", "torch.float32")
    assert found["shared"][0] == found["shared"][1]
    assert 0 < found["difference"] < 0.5


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler (g++) to compile with")
def test_compiled(in_process: InProcess, host: Host, base: Path) -> None:
    if makes_lazy_layers(host) and not is_lazy(host):
        pytest.skip("tracing takes long, and this host is checked with its lazy layers")
    difference, breaks = in_process(host, "adapt_traced", base)
    assert difference < 1e-4
    assert breaks == 0


def test_what_does_not_fit_is_one_clear_sentence(in_process: InProcess, host: Host, base: Path) -> None:
    folder = base / "models" / "diffusion_models"
    folder.mkdir()
    for kind in ("inpainting", "sd2", "sdxl", "wide"):
        sd_files.write_unet_alone(folder / f"{kind}.safetensors", kind)
    sd_files.write_adapter(base / "models" / "artv" / "v.safetensors", sd_files.sd1_config("v"))
    sd_files.write_adapter(base / "models" / "artv" / "whole.safetensors", with_unet=True)
    said = in_process(host, "adapt_errors", base)
    print(*said.items(), sep="\n")
    for name, parts in SAID.items():
        for part in parts:
            assert part in said[name], (name, said[name])
    assert all("\n" not in said[name] and len(said[name]) < 400 for name in REFUSED)
    for name in ("v for v", "whole"):
        assert said[name].startswith("small sd15: 32x32 pixels")
        assert "not used" not in said[name]


REFUSED = ("none", "clip", "inpainting", "sd2", "sdxl", "wide", "eps for v", "v for eps", "x0", "bypass", "shipped")
NEEDS = "needs a Stable Diffusion 1.x checkpoint; connect the model that this ARTV file was trained on"
SAID = {
    "none": ("no model is connected", "connect one of Stable Diffusion 1.x or 2.x"),
    "clip": ("the connected model is not a diffusion model",),
    "inpainting": ("the connected model is an inpainting checkpoint (its UNet takes 9 channels)", NEEDS),
    "sd2": ("the connected model is a Stable Diffusion 2.x checkpoint", NEEDS),
    "sdxl": ("the connected model is an SDXL checkpoint", NEEDS),
    "wide": ("has a UNet of another size", "(got [640, 320, 3, 3], expected [320, 320, 3, 3]); connect the model that"),
    "eps for v": (
        "the connected model predicts noise (eps)",
        "needs one that predicts velocity",
        "ModelSamplingDiscrete",
    ),
    "v for eps": ("the connected model predicts velocity (v_prediction)", "needs one that predicts noise (eps)"),
    "x0": ("the connected model predicts X0",),
    "lcm": ("not used, because it is made for ComfyUI's own sampler: sampling settings (LCM)",),
    "extras": (
        "attention patches (attn2_patch)",
        "block patches (output_block_patch)",
        "sampling functions (sampler_post_cfg_function)",
        "replaced parts (diffusion_model.out)",
        "wrappers (apply_model)",
    ),
    "bypass": ("a LoRA in bypass mode", "use Load LoRA"),
    "shipped": ("the connected model", "this ARTV file is a model of its own", "choose one that was trained on"),
}


# The graph of an artist

TEXT = "a red car in the rain"


@pytest.fixture(scope="module")
def own_server(server: Server, files: Path) -> Iterator[Server]:
    """With the files; it lets go of its models afterwards, which take gigabytes."""
    link(files, server.base)
    yield server
    server.post("/free", {"unload_models": True, "free_memory": True})


def own_graph() -> Graph:
    """ComfyUI's own nodes, and three of this pack: a video of a Stable Diffusion checkpoint with two LoRAs."""
    first, second = sd_files.LORAS
    lora = {"strength_model": 0.5, "strength_clip": 0.5}
    wires = {"model": ["adapt", 0], "positive": ["text", 0]}
    return {
        "load": node("CheckpointLoaderSimple", ckpt_name=sd_files.BASE),
        "lora 1": node("LoraLoader", model=["load", 0], clip=["load", 1], lora_name=first, **lora),
        "lora 2": node("LoraLoader", model=["lora 1", 0], clip=["lora 1", 1], lora_name=second, **lora),
        "text": node("CLIPTextEncode", clip=["lora 2", 1], text=TEXT),
        "adapt": node("ARTVAdaptModel", model=["lora 2", 0], checkpoint=sd_files.ADAPTER),
        "sample": node("ARTVMaskedDiffusionSampler", **SAMPLER_DEFAULTS | wires),
        "about": node("PreviewAny", source=["adapt", 1]),
        "video": node(
            "ARTVDecodeVideo",
            latent=["sample", 0],
            vae=["load", 2],
            fps=8.0,
            filename_prefix="video/own",
            format="mp4",
            upscale=1,
        ),
    }


def test_a_graph_of_native_nodes_makes_a_video(own_server: Server) -> None:
    result = own_server.run(own_graph())
    assert result.status == "success", result.message
    made = read_video(max((own_server.base / "output" / "video").glob("own*.mp4")))
    assert made.shape == (3, 3, 32, 32)
    assert made.float().std() > 1
    assert "4 weights are changed by LoRAs or other patches" in result.outputs["about"]["text"][0]


def test_a_file_that_was_replaced_is_read_again(own_server: Server, files: Path) -> None:
    graph = own_graph()
    assert own_server.run(graph).status == "success"
    assert "adapt" not in own_server.run(graph).executed
    place = own_server.base / "models" / "artv" / sd_files.ADAPTER
    place.unlink()
    shutil.copyfile(files / sd_files.ADAPTER, place)
    assert "adapt" in own_server.run(graph).executed


def test_a_journal_of_the_loader_goes_on(own_server: Server) -> None:
    """Three frames with ARTV Loader and two ARTV LoRA nodes, then five with the graph's own model and LoRAs."""
    graph = own_graph()
    lora = {"strength": 0.5, "strength_clip": 0.5}
    loaded = graph | {
        "load": node("ARTVLoader", checkpoint=sd_files.ADAPTER, base=sd_files.BASE),
        "adapt": node("ARTVLoRA", model=["first", 0], clip=["first", 1], lora_name=sd_files.LORAS[1], **lora),
        "first": node("ARTVLoRA", model=["load", 0], clip=["load", 1], lora_name=sd_files.LORAS[0], **lora),
        "text": node("CLIPTextEncode", clip=["adapt", 1], text=TEXT),
    }
    del loaded["lora 1"], loaded["lora 2"], loaded["about"]
    first, held = journaled(own_server, loaded, frames=3)
    on, held_then = journaled(own_server, graph, frames=5)
    assert (held, held_then) == (0, 3)
    assert torch.equal(on[:3], first)


def test_frames_go_on_through_the_graphs_own_vae(own_server: Server) -> None:
    """VAE Decode, VAE Encode and the Multi-Prompt Scheduler with the graph's CLIP and VAE."""
    graph = own_graph()
    settings = {"pre_text": "", "app_text": "", "blend_frames": 0, "fps": 8.0, "num_frames": 0, "segment_frames": 16}
    text = '"0": "a red car", "3": "a blue car"'
    wires = {"model": ["adapt", 0], "positive": ["text", 0], "references": ["latents", 0], "frames": 5}
    graph |= {
        "text": node("ARTVMultiPromptScheduler", clip=["lora 2", 1], text=text, **settings),
        "first": node(
            "ARTVMaskedDiffusionSampler", **SAMPLER_DEFAULTS | {"model": ["adapt", 0], "positive": ["one", 0]}
        ),
        "one": node("CLIPTextEncode", clip=["lora 2", 1], text=TEXT),
        "images": node("VAEDecode", samples=["first", 0], vae=["load", 2]),
        "latents": node("VAEEncode", pixels=["images", 0], vae=["load", 2]),
        "sample": node("ARTVMaskedDiffusionSampler", **SAMPLER_DEFAULTS | wires),
    }
    result = own_server.run(graph)
    assert result.status == "success", result.message
    assert len(read_video(max((own_server.base / "output" / "video").glob("own*.mp4")))) == 5


def journaled(server: Server, graph: Graph, frames: int) -> tuple[Tensor, int]:
    """The latents, and how many of them a journal held."""
    inputs = graph["sample"]["inputs"] | {"journal": ["journal", 0], "frames": frames, "seed": 321}
    result = server.run(
        graph
        | {
            "sample": node("ARTVMaskedDiffusionSampler", **inputs),
            "journal": node("ARTVJournalSettings", mode="on", start_over=False, redo=""),
            "said": node("PreviewAny", source=["sample", 3]),
            "save": node("SaveLatent", samples=["sample", 0], filename_prefix="latents/own"),
        }
    )
    assert result.status == "success", result.message
    held = re.search(r"(\d+) frames were already saved", result.outputs["said"]["text"][0])
    assert held is not None
    return load_file(server.output_file(result.outputs["save"]["latents"][0]))["latent_tensor"], int(held[1])

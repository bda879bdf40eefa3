"""Under the host's memory management: weights are loaded once a run, from the file itself where they are loaded as they
are used, and evaluations are captured only where weights stay. Each check has a process of its own, `in_process.py`."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from artv_core.checkpoint import load_checkpoint, save_checkpoint
from artv_core.commands.comfyui_server import Host, Server
from artv_core.method.options import GenerateOptions
from artv_core.run.pipeline import Pipeline

from .conftest import InProcess, checkpoint_in, is_lazy, random_model, save_random_model
from .graphs import STEPS

LAZY_TOO = (
    "test_a_lazy_server_makes_lazy_layers",
    "test_frames_are_the_cores_and_go_on",
    "test_a_lora_changes_model_and_clip",
    "test_native_nodes_save_clip_and_vae",
    "test_weights_are_loaded_once_a_run",
    "test_a_loader_makes_another_for_hooks_and_devices",
    "test_no_graph_outlives_its_weights",
)
PROMPT = "a red circle moving right"
GUIDANCE = dict.fromkeys(("guidance_text", "guidance_references", "guidance_anchor", "first_frame_guidance"), 1.5)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """With a checkpoint whose weights the host computes with as they are, so that they can stay in the file's map."""
    save_checkpoint(random_model(), checkpoint_in(tmp_path), dtype=torch.float32)
    return tmp_path


def layers_of(host: Host) -> list[str]:
    """How the host can keep weights on a CPU."""
    return ["lazy", "dynamic"] if is_lazy(host) else ["plain"]


def test_a_lazy_server_makes_lazy_layers(server: Server, host: Host) -> None:
    assert ("layers have no weights until they are loaded" in server.log_text()) == is_lazy(host)


def test_frames_are_the_cores_and_go_on(in_process: InProcess, host: Host, base: Path) -> None:
    core = Pipeline(load_checkpoint(base / "models/artv/test.safetensors"))
    options = GenerateOptions(num_frames=3, seed=7, steps=STEPS, **GUIDANCE)
    expected = torch.cat([frame.latent for frame in core.frames(PROMPT, options)])
    images = core.model.decode_latents(expected)
    for layers in layers_of(host):
        found = in_process(host, "sampled", base, layers)
        made = torch.load(base / "sampled.pt")
        assert (made["latents"] - expected).abs().max() < 1e-3  # the host keeps text encoders in float16
        assert (made["images"].movedim(-1, 1) - images).abs().max() < 1e-3
        assert found["went on"] == 0
        assert found["in the file's memory map"] == (layers == "dynamic")
        assert (found["patcher"] == "OnAnyDevice") == (layers == "dynamic")


def test_a_lora_changes_model_and_clip(in_process: InProcess, host: Host, base: Path) -> None:
    torch.manual_seed(1)
    unet = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    width, hidden = 48, 192
    tensors = {
        f"{unet}.lora_up.weight": torch.randn(128, 4),
        f"{unet}.lora_down.weight": torch.randn(4, 128) * 0.2,
        f"{text}.lora_up.weight": torch.randn(hidden, 4),
        f"{text}.lora_down.weight": torch.randn(4, width),
    }
    (base / "models" / "loras").mkdir()
    save_file(tensors, base / "models" / "loras" / "lora.safetensors")
    found = in_process(host, "patched", base)
    assert found["report"] == "2 weights changed"
    assert found["finite"]
    assert found["changed"] > 1e-3
    assert found["text"] > 1e-3
    assert found["from by hand"] < 1e-4
    assert found["again unchanged"] == 0


def test_native_nodes_save_clip_and_vae(in_process: InProcess, host: Host, base: Path) -> None:
    found = in_process(host, "saved", base)
    assert found["clip"] < 1e-3  # the host keeps text encoders in float16
    assert found["vae"] == 0


def test_weights_are_loaded_once_a_run(in_process: InProcess, host: Host, base: Path) -> None:
    """The bar is 2: 16 frames that are streamed, and 16 that are previewed or decoded to a file."""
    for layers in layers_of(host):
        found = in_process(host, "loads", base, layers)
        assert found["streamed"] == {"model": 1, "vae": 1}
        assert found["previewed"]["model"] <= 2
        assert found["previewed"]["vae"] <= 2
        assert found["decoded"] == {"model": 0, "vae": 1}
        count, differences = found["frames"]
        assert count == 32
        assert max(differences) < 1 / 512, "an image differs by more than half a step of a video's colours"


def test_a_loader_makes_another_for_hooks_and_devices(in_process: InProcess, host: Host, base: Path) -> None:
    for layers in layers_of(host):
        found = in_process(host, "made_again", base, layers)
        if not found:
            assert host.version < "0.33", "only older hosts ask for no second one"
            return
        assert found.pop("difference") < 1e-5
        assert list(found) == ["model", "clip", "vae"]
        for kind, difference, shares_nothing in found.values():
            assert kind == "ModelPatcher"
            assert difference < 1e-3  # float16 in one of them
            assert shares_nothing


def test_evaluations_are_captured_where_all_weights_stay_on_a_card(
    in_process: InProcess, host: Host, base: Path
) -> None:
    found = in_process(host, "ways", base)
    assert found["captured"] == [[False, True, "cuda", False, 0]]
    assert all(compiled and (device == "cpu" or not missing) for compiled, _, device, _, missing in found["compiled"])
    assert len(found["compiled"]) == 12
    for said in ("graph is off", "this is cpu", "loaded as they are used", "3 MB of the weights are not on the"):
        assert any(said in reason for reason in found["reasons"]), said


def test_no_graph_outlives_its_weights(in_process: InProcess, host: Host, base: Path) -> None:
    """With a stand-in for graphs, without and with a patch, and with weights that the host takes away meanwhile."""
    save_random_model(base / "models" / "artv" / "test.safetensors")
    found = in_process(host, "captured", base)
    assert found["differences"] == [0, 0, 0]
    evaluations = [made for _, made, _ in found["stand-ins"]]
    assert len(evaluations) == 4, "one for each run, and another one after the weights were taken away"
    assert evaluations[0] == evaluations[1] == evaluations[2] + evaluations[3]
    assert min(evaluations) > 0
    assert [resets for _, _, resets in found["stand-ins"]] == [1, 1, 1, 1]

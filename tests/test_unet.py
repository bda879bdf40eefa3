"""The UNet is Stable Diffusion's, 2.1 or 1.5, to the key and to 1e-5, and its branches are closed until trained."""

import functools
import math
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from einops import rearrange
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from artv_core.config import AdapterConfig, AnchorConfig, NetworkConfig, UNetConfig, preset
from artv_core.models.attention import attend
from artv_core.models.hollow import hollow
from artv_core.models.network import FrameNetwork
from artv_core.models.unet import UNet

BRANCHES = ("anchor_to_", "_level_embed.")
SMALL = UNetConfig(model_channels=32, head_channels=16, context_dim=24, norm_groups=8)
SMALL_SD1 = replace(SMALL, num_heads=4, linear_projections=False)
SMALL_NETWORK = NetworkConfig(SMALL, AdapterConfig(), AnchorConfig(patch_size=2, grid=3, width=20))
TWO_LEVELS = replace(SMALL_NETWORK, unet=replace(SMALL, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(0,)))
FAMILIES = {"sd2": SMALL_NETWORK, "sd1": replace(SMALL_NETWORK, unet=SMALL_SD1)}


def fill(module: nn.Module, seed: int = 0, only: str = "") -> None:
    """Random weights everywhere (zero-initialised layers too) of a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if only in name:
                fan_in = math.prod(parameter.shape[1:])
                offset = float(parameter.ndim == 1 and "norm" in name)
                parameter.normal_(offset, 0.5 if parameter.ndim == 1 else fan_in**-0.5, generator=generator)


def diffusers_unet(config: UNetConfig) -> UNet2DConditionModel:
    def kinds(cross: str, plain: str) -> list[str]:
        return [cross if level in config.attention_levels else plain for level in range(len(config.channel_mult))]

    return UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.level_channels,
        down_block_types=kinds("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=kinds("CrossAttnUpBlock2D", "UpBlock2D")[::-1],
        layers_per_block=config.num_res_blocks,
        cross_attention_dim=config.context_dim,
        attention_head_dim=[config.heads(channels) for channels in config.level_channels],  # number of heads
        transformer_layers_per_block=config.transformer_depth,
        use_linear_projection=config.linear_projections,
        norm_num_groups=config.norm_groups,
    )


def to_diffusers(state_dict: dict[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    ldm = {f"model.diffusion_model.{key}": value for key, value in state_dict.items()}
    return convert_ldm_unet_checkpoint(ldm, {"layers_per_block": config.num_res_blocks})


def relative_error(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


def inputs(config: NetworkConfig, batch: int = 2, size: tuple[int, int] = (8, 8), seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    channels = config.unet.in_channels
    return {
        "x": normal(batch, channels, *size),
        "timesteps": torch.linspace(30.5, 950.0, batch),
        "context": normal(batch, 7, config.unet.context_dim),
        "reference_latents": normal(batch, config.adapter.num_references * channels, *size),
        "anchor_latent": normal(batch, channels, *size),
        "reference_level": torch.randint(1, 400, (batch,), generator=generator),
        "anchor_level": torch.randint(1, 400, (batch,), generator=generator),
    }


def run(network: FrameNetwork, given: dict[str, Tensor]) -> Tensor:
    given = dict(given)
    x, timesteps = given.pop("x"), given.pop("timesteps")
    return network(x, timesteps, network.condition(**given))


@pytest.mark.parametrize(("name", "count"), [("sd21", 865_910_724), ("sd15", 859_520_964)])
def test_presets_have_every_key_and_shape_of_stable_diffusion(name, count):
    config = preset(name).noise.unet
    with torch.device("meta"):
        ours, theirs = UNet(config), diffusers_unet(config)
    assert sum(parameter.numel() for parameter in ours.parameters()) == count
    converted = to_diffusers(ours.state_dict(), config)
    assert len(converted) == len(ours.state_dict()) == 686  # the converter drops what it does not know
    expected = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in converted.items()} == expected


def test_sd21_key_names_are_those_of_the_public_file():
    with torch.device("meta"):
        keys = set(UNet(preset("sd21").noise.unet).state_dict())
    assert keys >= {
        "time_embed.2.bias",
        "input_blocks.0.0.weight",
        "input_blocks.1.0.emb_layers.1.weight",
        "input_blocks.3.0.op.weight",
        "input_blocks.4.0.skip_connection.weight",
        "input_blocks.8.1.transformer_blocks.0.attn2.to_out.0.bias",
        "input_blocks.11.0.out_layers.3.weight",
        "middle_block.1.transformer_blocks.0.ff.net.0.proj.weight",
        "middle_block.2.in_layers.2.weight",
        "output_blocks.2.1.conv.weight",
        "output_blocks.5.2.conv.weight",
        "output_blocks.11.1.proj_in.weight",
        "out.0.weight",
        "out.2.weight",
    }


def test_sd15_projections_and_heads_are_those_of_the_public_file():
    with torch.device("meta"):
        unet = UNet(preset("sd15").noise.unet)
    shapes = {key: tuple(tensor.shape) for key, tensor in unet.state_dict().items()}
    assert shapes["input_blocks.1.1.proj_in.weight"] == (320, 320, 1, 1)
    assert shapes["middle_block.1.proj_out.weight"] == (1280, 1280, 1, 1)
    assert shapes["output_blocks.5.1.transformer_blocks.0.attn2.to_k.weight"] == (1280, 768)
    assert {module.heads for module in unet.modules() if hasattr(module, "heads")} == {8}


def test_anchor_branch_only_adds_keys():
    with torch.device("meta"):
        plain, branched = UNet(SMALL), UNet(SMALL, anchor_width=20)
    added = set(branched.state_dict()) - set(plain.state_dict())
    assert set(plain.state_dict()) <= set(branched.state_dict())
    assert len(added) == 16 * 3 + 2 * 4  # sixteen cross-attentions, two embeddings
    assert all(any(branch in key for branch in BRANCHES) for key in added)


def test_hollow_networks_have_shapes_and_no_random_numbers():
    seen = set()

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            seen.add(operation._schema.name)
            return operation(*args, **(kwargs or {}))

    with Operations(), hollow():
        network = FrameNetwork(TWO_LEVELS)
    assert "aten::empty" in seen
    assert not [name for name in seen if "uniform" in name or "normal" in name]
    tensors, plain = network.state_dict(), FrameNetwork(TWO_LEVELS).state_dict()
    assert all(tensor.is_meta for tensor in tensors.values())
    assert {name: tensor.shape for name, tensor in tensors.items()} == {n: t.shape for n, t in plain.items()}


CONFIGS = {
    "sd2": SMALL,
    "sd1": SMALL_SD1,
    "deeper": UNetConfig(
        model_channels=24, channel_mult=(1, 3), num_res_blocks=1, attention_levels=(1,), head_channels=12,
        transformer_depth=2, context_dim=10, norm_groups=4, in_channels=3, out_channels=5,
    ),
}  # fmt: skip


@functools.cache
@torch.no_grad()
def both_unets(name: str) -> tuple[UNet, UNet2DConditionModel]:
    """This project's network and diffusers', with the same weights."""
    config = CONFIGS[name]
    with hollow():
        ours, theirs = UNet(config), diffusers_unet(config)
    fill(ours.to_empty(device="cpu"))
    theirs.load_state_dict(to_diffusers(ours.state_dict(), config), assign=True)
    return ours, theirs.eval()


@pytest.mark.parametrize("size", [(8, 16), (7, 9), (5, 3)])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_parity_with_diffusers(name, size):
    config = CONFIGS[name]
    ours, theirs = both_unets(name)
    x, context = torch.randn(3, config.in_channels, *size), torch.randn(3, 6, config.context_dim)
    timesteps = torch.tensor([0.0, 501.25, 999.0])
    expected = theirs(x, timesteps, context).sample
    got = ours(x, timesteps, ours.project_tokens(context))
    assert got.shape == expected.shape == (3, config.out_channels, *size)
    assert relative_error(got, expected) < 1e-5


@torch.no_grad()
def test_adapter_features_enter_at_the_end_of_each_level():
    # Diffusers adds T2I-Adapter features at the same places, so the two must agree.
    ours, theirs = both_unets("sd2")
    x, context, timesteps = torch.randn(1, 4, 16, 16), torch.randn(1, 6, 24), torch.tensor([400.0])
    features = [torch.randn(1, channels, 16 >> level, 16 >> level) for level, channels in enumerate((32, 64, 128, 128))]
    expected = theirs(x, timesteps, context, down_intrablock_additional_residuals=list(features)).sample
    got = ours(x, timesteps, ours.project_tokens(context), adapter_features=features)
    assert relative_error(got, expected) < 1e-4
    assert relative_error(ours(x, timesteps, ours.project_tokens(context)), expected) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_untrained_branches_change_no_bit(family):
    config = FAMILIES[family]
    network, plain = FrameNetwork(config), UNet(config.unet)
    fill(plain)
    missing, unexpected = network.diffusion_model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(any(branch in key for branch in BRANCHES) for key in missing)
    given = inputs(config, size=(9, 8))
    expected = plain(given["x"], given["timesteps"], plain.project_tokens(given["context"]))
    assert expected.std() > 0.1
    assert torch.equal(run(network, given), expected)


class QuickLayers:
    """Layers that take their weights from a buffer, for networks of true size in little time."""

    noise = torch.rand(1 << 20, generator=torch.Generator().manual_seed(0)) * 2 - 1

    @classmethod
    def fill(cls, layer: nn.Module) -> None:
        weight = layer.weight.detach().view(-1)
        for start in range(0, weight.numel(), cls.noise.numel()):
            part = weight[start : start + cls.noise.numel()]
            torch.mul(cls.noise[: part.numel()], math.prod(layer.weight.shape[1:]) ** -0.5, out=part)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)

    class Linear(nn.Linear):
        def reset_parameters(self):
            QuickLayers.fill(self)

    class Conv2d(nn.Conv2d):
        def reset_parameters(self):
            QuickLayers.fill(self)

    GroupNorm, LayerNorm, Embedding = nn.GroupNorm, nn.LayerNorm, nn.Embedding


@torch.no_grad()
def test_untrained_branches_change_no_bit_at_true_size():
    config = preset("sd21").noise
    network = FrameNetwork(config, operations=QuickLayers)
    for name, layer in network.diffusion_model.named_modules():
        if name.endswith(("proj_out", "out_layers.3")) or name == "out.2":
            QuickLayers.fill(layer)
    with torch.device("meta"):
        plain = UNet(config.unet)
    weights = network.diffusion_model.state_dict()
    plain.load_state_dict({key: weights[key] for key in plain.state_dict()}, assign=True)
    given = inputs(config, batch=1)
    expected = plain(given["x"], given["timesteps"], plain.project_tokens(given["context"]))
    assert expected.std() > 1e-3
    assert torch.equal(run(network, given), expected)


BRANCH_INPUTS = {
    "zero_out": "reference_latents",
    "anchor_to_out": "anchor_latent",
    "reference_level_embed.2": "reference_level",
    "anchor_level_embed.2": "anchor_level",
}


@pytest.mark.parametrize("branch", BRANCH_INPUTS)
@torch.no_grad()
def test_each_branch_once_filled_reads_its_own_input_alone(branch):
    network, plain = FrameNetwork(TWO_LEVELS), UNet(TWO_LEVELS.unet)
    fill(plain)
    network.diffusion_model.load_state_dict(plain.state_dict(), strict=False)
    fill(network, only=branch)
    given, others = inputs(TWO_LEVELS), inputs(TWO_LEVELS, seed=1)
    before = run(network, given)
    for name in BRANCH_INPUTS.values():
        after = run(network, {**given, name: others[name]})
        if name == BRANCH_INPUTS[branch]:
            assert relative_error(after, before) > 1e-3
        else:
            assert torch.equal(after, before)


@pytest.mark.parametrize("role", ["noise", "mask"])
def test_gradients_reach_every_parameter(role):
    config = getattr(preset("tiny"), role)
    network = FrameNetwork(config)
    fill(network)
    run(network, inputs(config)).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


@pytest.mark.parametrize("role", ["noise", "mask"])
def test_a_new_network_learns(role):
    # Zero-initialised layers stand behind one another; none may keep another shut for ever.
    torch.manual_seed(0)
    config = getattr(preset("tiny"), role)
    network = FrameNetwork(config)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    start = {name: parameter.clone() for name, parameter in network.named_parameters()}
    given = inputs(config)
    for _ in range(4):
        optimizer.zero_grad()
        (run(network, given) - given["x"].mean(1, keepdim=True)).square().mean().backward()
        optimizer.step()
    assert [name for name, parameter in network.named_parameters() if torch.equal(parameter, start[name])] == []


TRAINED = {"everything": "", "branches": ("reference_adapter", "anchor_", "_level_embed")}


@pytest.mark.parametrize(("family", "trained"), list(zip(FAMILIES, TRAINED, strict=True)))
def test_checkpointing_changes_no_bit_of_outputs_and_gradients(family, trained):
    network = FrameNetwork(FAMILIES[family]).double()
    fill(network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(any(part in name for part in TRAINED[trained]) or trained == "everything")
    given = {key: value.double() if value.ndim > 1 else value for key, value in inputs(FAMILIES[family]).items()}

    def step(checkpointing: bool) -> tuple[Tensor, list[Tensor | None]]:
        network.gradient_checkpointing = checkpointing
        network.zero_grad()
        output = run(network, given)
        output.square().mean().backward()
        return output, [parameter.grad for parameter in network.parameters()]

    (expected, gradients), (got, recomputed) = step(False), step(True)
    assert torch.equal(got, expected)
    for parameter, gradient, other in zip(network.parameters(), gradients, recomputed, strict=True):
        assert (gradient is None) == (other is None) == (not parameter.requires_grad)
        assert gradient is None or torch.equal(gradient, other)


def test_checkpointing_recomputes_blocks_in_training_alone():
    network = FrameNetwork(preset("tiny").mask)
    unet, given = network.diffusion_model, inputs(preset("tiny").mask)
    blocks, calls = [*unet.input_blocks, unet.middle_block, *unet.output_blocks], []
    for block in blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(1))

    def calls_of_a_step() -> int:
        calls.clear()
        run(network, given).sum().backward()
        return len(calls)

    assert not network.gradient_checkpointing
    assert calls_of_a_step() == len(blocks)
    network.gradient_checkpointing = True
    assert calls_of_a_step() == 2 * len(blocks)
    with torch.no_grad():
        calls.clear()
        run(network, given)
    assert len(calls) == len(blocks)
    network.eval()
    assert calls_of_a_step() == len(blocks)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.bfloat16, 0.1)])
@torch.no_grad()
def test_other_dtypes(dtype, tolerance):
    network = FrameNetwork(SMALL_NETWORK)
    fill(network)
    given = inputs(SMALL_NETWORK)
    expected = run(network, given)
    latents = {name: value.to(dtype) for name, value in given.items() if value.ndim > 1}
    got = run(network.to(dtype), {**given, **latents})
    assert got.dtype == dtype
    assert relative_error(got.float(), expected) < tolerance


def test_plain_unet_refuses_anchor_and_levels():
    with torch.device("meta"):
        plain = UNet(SMALL)
        with pytest.raises(ValueError, match="got anchor tokens, but this UNet was built without anchor_width"):
            plain.project_tokens(torch.randn(1, 6, 24), torch.randn(1, 5, 20))
        with pytest.raises(ValueError, match="got noise levels, but this UNet was built without anchor_width"):
            plain.embed_levels(torch.zeros(1), torch.zeros(1))


def test_wrong_number_of_adapter_features_is_refused():
    with torch.device("meta"):
        unet = UNet(SMALL)
        tokens = unet.project_tokens(torch.randn(1, 6, 24))
        with pytest.raises(ValueError, match="got 1 adapter feature maps, expected 4"):
            unet(torch.randn(1, 4, 8, 8), torch.zeros(1), tokens, [torch.randn(1, 32, 8, 8)])


class HostLayers:
    """Stands for the host's casting layers: every parameter must live in one of these."""

    class Linear(nn.Linear):
        pass

    class Conv2d(nn.Conv2d):
        pass

    class GroupNorm(nn.GroupNorm):
        pass

    class LayerNorm(nn.LayerNorm):
        pass

    class Embedding(nn.Embedding):
        pass


def test_every_parameter_lives_in_a_layer_of_the_host():
    kinds = tuple(kind for kind in vars(HostLayers).values() if isinstance(kind, type))
    assert len(kinds) == 5
    with torch.device("meta"):
        network = FrameNetwork(SMALL_NETWORK, operations=HostLayers)
    owners = [module for module in network.modules() if list(module.parameters(recurse=False))]
    assert len(owners) > 100
    assert all(isinstance(owner, kinds) for owner in owners)
    assert not list(network.buffers())


def test_attention_trained_in_half_precision_on_a_cpu_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    parts = [torch.randn(2, 4, tokens, 16, dtype=torch.bfloat16, requires_grad=True) for tokens in (64, 17, 17)]
    exact = [part.detach().double().requires_grad_() for part in parts]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attend(parts[0], (parts[1], parts[2]))
    wanted = rearrange(torch.nn.functional.scaled_dot_product_attention(*exact), "b heads n d -> b n (heads d)")
    wanted.sum().backward()
    found.sum().backward()
    assert found.dtype == torch.bfloat16
    assert (found == wanted.bfloat16()).float().mean() > 0.99, "more than the last rounding"
    for part, true in zip(parts, exact, strict=True):
        torch.testing.assert_close(part.grad, true.grad.bfloat16(), rtol=0.01, atol=1e-4)

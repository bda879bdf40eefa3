"""What is computed once instead of often changes no result, and how much work is left is counted."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.config import preset
from artv_core.method.denoiser import Shortcuts, _Reused
from artv_core.method.frames import AnchorPolicy
from artv_core.method.options import GenerateOptions
from artv_core.method.samplers import num_evaluations
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.models.artv import ARTV
from artv_core.models.expansion import Expansion
from artv_core.models.network import FrameNetwork
from artv_core.models.unet import Reuse
from tests.models import frames_of, smallest, smallest_config
from tests.naive import PAPER, naive_frames, naive_work
from tests.test_unet import SMALL_NETWORK, fill, inputs, relative_error
from tests.work import count_work, video_work

FIRST = AnchorPolicy("first")


def text_of(model: ARTV, *starts: int) -> TextTrack:
    context = torch.randn(len(starts or (0,)), *model.null_context.shape, generator=torch.Generator().manual_seed(1))
    device = model.null_context.device
    return TextTrack([TextSegment(start, text.to(device)) for start, text in zip(starts or (0,), context, strict=True)])


# The same results


@pytest.mark.parametrize(
    ("mix_mode", "batch", "levels", "shipped"),
    [("after_guidance", 1, (50, 30), True), ("every_branch", 2, (0, 0), False)],
)
def test_latents_are_those_of_the_formulas(mix_mode: str, batch: int, levels: tuple[int, int], shipped: bool):
    """Float64, 4 frames; the shipped model, and one with fewer layers."""
    model = (load_checkpoint(resolve_checkpoint("tiny")) if shipped else smallest()).double()
    options = replace(
        PAPER,
        num_frames=4,
        height=32,
        width=32,
        steps=2,
        batch_size=batch,
        seed=3,
        mix_mode=mix_mode,
        reference_noise_level=levels[0],
        anchor_noise_level=levels[1],
    )
    text = text_of(model, 0, 2)
    own = torch.stack([frame.latent for frame in frames_of(model, text, options, anchor=FIRST)])
    plain = torch.stack(list(naive_frames(model, text, options)))
    assert own.dtype == torch.float64
    assert own.shape == (4, batch, 4, 4, 4)
    assert relative_error(own, plain) < 1e-9
    assert relative_error(own[1:], plain[:-1]) > 0.01, "the frames differ from one another"


@pytest.mark.parametrize(
    ("attention_levels", "levels"),
    [((0, 1, 2), (0, 1, 2, 2)), ((1, 2), (0, 0)), ((), (0, 1)), ((1, 2), (0, 1, 2, 2)), ((), (0, 0))],
)
@torch.no_grad()
def test_branches_part_where_they_differ(attention_levels: tuple[int, ...], levels: tuple[int, ...]):
    """A batch that grows on its way gives what a batch that was large from the start gives."""
    config = replace(SMALL_NETWORK, unet=replace(SMALL_NETWORK.unet, attention_levels=attention_levels))
    network, videos = FrameNetwork(config).eval(), 3
    fill(network)
    network.double()
    given = {name: value.double() if value.is_floating_point() else value for name, value in inputs(config, 12).items()}
    given = {name: value[: videos * len(levels)] for name, value in given.items()}
    x, timesteps = given.pop("x")[:videos], torch.full_like(given.pop("timesteps")[:videos], 321.0)
    for name in ("reference_level", "anchor_level"):
        given[name] = torch.tensor(levels).repeat_interleave(videos) * 10 + 5
    whole = network.condition(**given)
    expected = network(x.repeat(len(levels), 1, 1, 1), timesteps.repeat(len(levels)), whole)
    first = [levels.index(level) for level in sorted(set(levels))]
    embedding = torch.cat([whole.level_embedding[k * videos : (k + 1) * videos] for k in first])
    grown = network(x, timesteps, replace(whole, level_embedding=embedding, expansion=Expansion(videos, levels)))
    assert relative_error(grown, expected) < 1e-12
    parts = expected.chunk(len(levels))
    assert relative_error(parts[0], parts[1]) > 0.01, "the branches must differ"


# Once instead of often


def counted(model: ARTV, run: GenerateOptions, *starts: int) -> Counter[str]:
    """How many entries of a batch went through layers of the noise network, by what they are."""
    seen: Counter[str] = Counter()
    unet = model.noise.diffusion_model
    text = next(module for name, module in unet.named_modules() if name.endswith("attn2.to_k"))
    anchor = next(module for name, module in unet.named_modules() if name.endswith("attn2.anchor_to_k"))
    layers = {"text": text, "anchor": anchor, "adapter": model.noise.reference_adapter.conv_in}

    def hook(name: str) -> object:
        return lambda module, given, result: seen.update({name: given[0].shape[0]})

    hooks = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    hooks.append(unet.input_blocks[0][0].register_forward_hook(hook("conv_in")))
    hooks.append(unet.out[2].register_forward_hook(hook("conv_out")))
    try:
        list(frames_of(model, text_of(model, *starts), run))
    finally:
        for handle in hooks:
            handle.remove()
    return seen


def test_conditions_are_made_once():
    """Two texts and the null context, whatever the number of frames; two references sets of which one is blank."""
    run = replace(PAPER, num_frames=4, height=32, width=32, steps=3, batch_size=2)
    evaluations = num_evaluations("dpmpp_2s_ancestral", 3)  # of a frame
    seen = counted(smallest(), run, 0, 2)
    assert seen["text"] == 3
    assert seen["adapter"] == seen["anchor"] == 1 + 3 * 2
    assert seen["conv_in"] == 2 * evaluations * 4
    assert seen["conv_out"] == 2 * (evaluations * 2 + evaluations * 3 * 4)


def test_texts_that_fade_into_one_another_are_each_taken():
    model = smallest()
    first, second = (segment.context for segment in text_of(model, 0, 1).segments)
    faded = TextTrack([TextSegment(0, first, fade_out=4, end=4), TextSegment(0, second, fade_in=4)])
    options = GenerateOptions(num_frames=4, height=32, width=32, steps=2, reference_noise_level=20)
    got = [frame.latent for frame in frames_of(model, faded, options)]
    plain = [frame.latent for frame in frames_of(model, TextTrack([TextSegment(0, first)]), options)]
    assert not torch.allclose(got[2], plain[2], atol=1e-3)


def test_work_of_a_clip_of_the_paper():
    """16 frames at 64x64 latents, four branches: at most 75% of the work of the formulas as they are said. 5 steps
    instead of the paper's 25, which change the share of work by little: `benchmarks/speed.py` counts all."""
    own, frame = video_work(preset("sd21"), replace(PAPER, num_frames=16, height=512, width=512, steps=5))
    evaluations = 16 * num_evaluations("dpmpp_2s_ancestral", 5)
    assert own.flops <= 0.75 * naive_work(preset("sd21"), (64, 64)).flops * 4 * evaluations
    assert own.network_calls <= 2 * evaluations
    assert frame.network_calls == 2 * evaluations // 16
    assert 0 < frame.kernels < 200_000


@pytest.mark.parametrize("changes", [{}, {"reuse_every": 2}])
def test_work_of_few_frames_is_counted_as_a_whole(changes: dict):
    options = replace(PAPER, num_frames=4, height=32, width=32, steps=2, **changes)
    config = smallest_config(num_res_blocks=0)
    with torch.device("meta"):
        model = ARTV(config, vae=False, text=False).eval()
        text = TextTrack([TextSegment(0, torch.zeros_like(model.null_context))])
    frames = frames_of(model, text, options)
    whole = count_work(model, lambda: list(frames))
    assert video_work(config, options)[0] == whole
    with pytest.raises(ValueError, match="number of frames is 2; give 3 or more"):
        video_work(config, replace(options, num_frames=2))


# Shortcuts, which do change results


def shortcut(model: ARTV, **options: object) -> tuple[list[Tensor], int]:
    """Frames, and the work in FLOPs that they were."""
    run = GenerateOptions(**{"num_frames": 2, "height": 32, "width": 32, "steps": 4, "seed": 2, **options})
    frames: list[Tensor] = []
    work = count_work(model, lambda: frames.extend(f.latent for f in frames_of(model, text_of(model), run)))
    return frames, work.flops


def test_reused_features_save_work_and_no_reuse_changes_nothing():
    model = smallest(num_res_blocks=2)
    plain, whole = shortcut(model)
    same, work = shortcut(model, reuse_every=1, reuse_blocks=3)
    assert work == whole
    assert all(torch.equal(a, b) for a, b in zip(same, plain, strict=True))
    reused, work = shortcut(model, reuse_every=2)
    assert work < 0.75 * whole
    assert all(0 < float((a - b).abs().max()) < 10 for a, b in zip(reused, plain, strict=True))
    deeper, more = shortcut(model, reuse_every=2, reuse_blocks=2)
    assert work < more < whole
    assert not torch.equal(deeper[-1], reused[-1])
    _, work = shortcut(model, reuse_every=2, reuse_blocks=99)
    assert more < work < whole, "all blocks but the one in the middle"


@torch.no_grad()
def test_features_of_the_same_latent_give_the_same_output():
    """Nothing changed since: then the outermost blocks alone give what the whole network gives."""
    network = FrameNetwork(SMALL_NETWORK).eval()
    fill(network)
    given = inputs(SMALL_NETWORK)
    x, timesteps = given.pop("x"), given.pop("timesteps")
    conditions = network.condition(**given)
    expected = network(x, timesteps, conditions)
    for blocks in (1, 3, 4, 11, 12):
        output, features = network(x, timesteps, conditions, Reuse(blocks))
        assert torch.equal(output, expected)
        again, kept = network(x, timesteps, conditions, Reuse(blocks, features))
        assert torch.equal(again, expected)
        assert kept is features


def test_features_are_not_reused_across_an_end_of_the_guidance_interval():
    """The branches are others there, and so is the batch."""
    reused, whole = _Reused(Shortcuts(reuse_every=3, reuse_blocks=2)), []
    for guided in (True, True, False, False, False, False, True, True):
        noise, mask = reused.now(guided)
        assert (noise.blocks, mask.blocks) == (2, 2)
        assert (noise.features is None) == (mask.features is None)
        whole.append(noise.features is None)
        reused.keep(("of the noise network", "of the mask network"))
    assert whole == [True, False, True, False, False, True, True, False]


@pytest.mark.parametrize("low", [0.4, 0.5, 0.6])
def test_reuse_and_a_guidance_interval_go_together_wherever_it_ends(low: float):
    """After four, three and two guided steps, of which every third computes all."""
    model = smallest()
    options = {"guidance_text": 4.0, "first_frame_guidance": 3.0, "guidance_interval": (low, 0.95), "steps": 7}
    whole, all_work = shortcut(model, **options)
    frames, work = shortcut(model, **options, reuse_every=3)
    assert work < all_work
    assert torch.isfinite(torch.cat(frames)).all()
    assert not torch.equal(frames[-1], whole[-1])


def test_guidance_outside_of_its_interval_is_off():
    model = smallest()
    guided = {"guidance_text": 4.0, "guidance_references": 1.5, "first_frame_guidance": 3.0}
    plain, one = shortcut(model, guidance_text=1.0, first_frame_guidance=1.0)
    everywhere, all_branches = shortcut(model, **guided)
    never, work = shortcut(model, **guided, guidance_interval=(0.0, 0.0))
    assert all(torch.equal(a, b) for a, b in zip(never, plain, strict=True))
    assert work < 1.1 * one
    early, some = shortcut(model, **guided, guidance_interval=(0.6, 1.0))
    assert work < some < all_branches
    for other in (plain, everywhere):
        assert not torch.allclose(early[-1], other[-1], atol=1e-3)
    both, least = shortcut(model, **guided, guidance_interval=(0.6, 1.0), reuse_every=2, mix_mode="every_branch")
    assert least < some
    assert torch.isfinite(torch.cat(both)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reuse_every": 0}, "reuse_every is 0; it must be 1 or more"),
        ({"reuse_blocks": 0}, "reuse_blocks is 0; it must be 1 or more"),
        ({"guidance_interval": (0.5, 0.2)}, "guidance_interval is 0.5 to 0.2; accepted are 0 to 1"),
        ({"guidance_interval": (0.0, float("nan"))}, "guidance_interval is 0.0 to nan"),
    ],
)
def test_wrong_shortcuts_are_one_line(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        GenerateOptions(**options).resolved(preset("tiny"))

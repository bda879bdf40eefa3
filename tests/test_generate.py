from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from artv_core.config import ARTVConfig, preset
from artv_core.method import generate
from artv_core.method.frames import AnchorPolicy, Frame, FrameBuffer
from artv_core.method.generate import take_frame
from artv_core.method.options import GenerateOptions
from artv_core.method.samplers import SAMPLERS, StepInfo, num_evaluations
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.models.artv import ARTV
from artv_core.models.attention import CrossAttention
from artv_core.run.pipeline import Pipeline, load_latents, pick_device, save_latents
from tests.models import frames_of, smallest


@pytest.fixture(scope="module")
def model() -> ARTV:
    return smallest()


@pytest.fixture(scope="module")
def exact() -> ARTV:
    """In float64, where batches of different sizes agree whatever kernels a processor has."""
    return smallest().double()


@pytest.fixture(scope="module")
def pipeline(model: ARTV) -> Pipeline:
    return Pipeline(model)


def options(num_frames: int = 4, **changes: object) -> GenerateOptions:
    """Two steps of Euler with fresh noise, at half the training size: quick, and every random stream is used."""
    quick: dict = {"height": 32, "width": 32, "steps": 2, "sampler": "euler_ancestral", "seed": 5}
    return GenerateOptions(num_frames=num_frames, **{**quick, **changes})


def text_of(model: ARTV, *starts: int) -> TextTrack:
    return TextTrack(
        [TextSegment(start, model.encode_text([f"a fox number {start}"])[0]) for start in (starts or (0,))]
    )


def make(model: ARTV, settings: GenerateOptions, starts: Sequence[int] = (0,), **inputs: object) -> list[Frame]:
    return list(frames_of(model, text_of(model, *starts), settings, **inputs))


def latents(frames: Sequence[Frame]) -> Tensor:
    return torch.stack([frame.latent for frame in frames])


def images(seed: int = 0, count: int = 1, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


HOOKS: list[RemovableHandle] = []


@pytest.fixture(autouse=True)
def _hooks_removed():
    yield
    while HOOKS:
        HOOKS.pop().remove()


# --- same seed, same frames -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_same_seed_same_frames(model, sampler):
    once, twice = (latents(make(model, options(3, sampler=sampler))) for _ in range(2))
    assert torch.equal(once, twice)
    assert not torch.equal(once, latents(make(model, options(3, sampler=sampler, seed=6))))


def test_a_shorter_run_is_the_start_of_a_longer_one(model):
    longer = latents(make(model, options(6)))
    assert torch.equal(longer[:2], latents(make(model, options(2))))
    assert torch.equal(longer[:5], latents(make(model, options(5))))


def test_the_first_frame_may_have_more_steps_than_the_others(model):
    seen: list[tuple[int, int]] = []

    def note(frame: int, info: StepInfo) -> None:
        seen.append((frame, info.num_steps))

    make(model, options(3, steps=2, first_frame_steps=5), on_step=note)
    assert seen == [(0, 5)] * 5 + [(1, 2)] * 2 + [(2, 2)] * 2


def test_recommended_steps_of_the_first_frame_go_with_the_recommended_steps(model):
    config = replace(model.config, sampling=replace(model.config.sampling, steps=4, first_frame_steps=8))
    steps = [
        (chosen.steps, chosen.first_frame_steps)
        for chosen in (
            GenerateOptions().resolved(config),
            GenerateOptions(steps=6).resolved(config),
            GenerateOptions(first_frame_steps=3).resolved(config),
            GenerateOptions().resolved(config).resolved(config),
        )
    ]
    assert steps == [(4, 8), (6, 0), (4, 3), (4, 8)]
    with pytest.raises(
        ValueError, match=r"first_frame_steps is 5000; accepted are 0 \(as many as the others\) to 1000"
    ):
        GenerateOptions(first_frame_steps=5000).resolved(config)


def test_a_model_without_steps_for_the_first_frame_is_written_as_before(model):
    for steps in (0, 8):
        config = replace(model.config, sampling=replace(model.config.sampling, first_frame_steps=steps))
        assert ("first_frame_steps" in config.to_json()) == (steps > 0)
        assert ARTVConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("kind", ["segment", "first", "rolling", "none"])
def test_going_on_is_never_having_stopped(model, kind):
    starts, policy = (0, 3, 6), AnchorPolicy(kind, window=2)
    whole = make(model, options(8), starts, anchor=policy)
    for stop in (1, 3, 4, 7):
        rest = make(model, options(8), starts, anchor=policy, given=latents(whole[:stop])[:, 0])
        assert [frame.index for frame in rest] == list(range(stop, 8))
        assert torch.equal(latents(whole[stop:]), latents(rest))
        assert all(torch.equal(a.mask, b.mask) for a, b in zip(whole[stop:], rest, strict=True))


def test_a_batch_goes_on_too(model):
    whole = make(model, options(4, batch_size=2))
    rest = make(model, options(4, batch_size=2), given=latents(whole[:2]))
    assert torch.equal(latents(whole[2:]), latents(rest))


def test_video_b_of_a_batch_has_seed_plus_b(exact):
    batch = latents(make(exact, options(4, batch_size=3, seed=10)))
    for b in range(3):
        alone = latents(make(exact, options(4, seed=10 + b)))
        torch.testing.assert_close(batch[:, b : b + 1], alone, rtol=1e-9, atol=1e-9)


def test_frames_leave_one_by_one(model):
    frames = frames_of(model, text_of(model), options(0))
    assert [next(frames).index for _ in range(3)] == [0, 1, 2]


# --- anchor and references --------------------------------------------------------------------------------------------


def test_anchor_of_several_prompts_in_the_buffer():
    """The paper: the first frame for prompt 1, the last frame of the previous segment for every later one."""
    track = TextTrack([TextSegment(start, torch.zeros(1, 1)) for start in (0, 3, 5)])
    buffer = FrameBuffer(2, AnchorPolicy())
    anchors = []
    for index in range(7):
        if track.starts_segment(index):
            buffer.begin_segment()
        anchor = buffer.anchor()
        anchors.append(None if anchor is None else int(anchor.flatten()[0]))
        buffer.append(torch.full((1, 1, 1, 1), float(index)))
    assert anchors == [None, 0, 0, 2, 2, 4, 4]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("segment", [None, 0, 0, 2, 2, 4, 4]),
        ("first", [None, 0, 0, 0, 0, 0, 0]),
        ("rolling", [None, 0, 0, 1, 2, 3, 4]),
        ("none", [None] * 7),
    ],
)
def test_each_frame_is_given_its_anchor_and_references(model, monkeypatch, kind, expected):
    seen = []

    class Spy(FrameBuffer):
        def anchor(self) -> Tensor | None:
            seen.append((super().anchor(), self.references()))
            return seen[-1][0]

    monkeypatch.setattr(generate, "FrameBuffer", Spy)
    made = latents(make(model, options(7), (0, 3, 5), anchor=AnchorPolicy(kind, window=2)))
    for (anchor, references), index, k in zip(seen, expected, range(7), strict=True):
        assert (anchor is None) == (index is None)
        assert index is None or torch.equal(anchor, made[index])
        assert k == 0 or torch.equal(references, made[[max(k - 2, 0), k - 1]].transpose(0, 1))


def test_given_frames_go_into_the_buffer_as_made_ones_do():
    track = TextTrack([TextSegment(start, torch.zeros(1, 1)) for start in (0, 2)])
    buffer = FrameBuffer(2, AnchorPolicy())
    for index in range(4):
        take_frame(buffer, track, torch.full((1, 1, 1, 1), float(index)))
    assert (buffer.count, int(buffer.anchor()), buffer.references().flatten().tolist()) == (4, 1, [2, 3])


def test_a_given_anchor_is_used_from_the_first_frame_on(exact):
    anchor = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    plain = latents(make(exact, options(2)))
    given = latents(make(exact, options(2), anchor=AnchorPolicy("given", latent=anchor)))
    other = latents(make(exact, options(2), anchor=AnchorPolicy("given", latent=anchor + 1)))
    assert not torch.equal(plain[0], given[0])
    assert not torch.equal(given[0], other[0])
    both = make(exact, options(2, batch_size=2), anchor=AnchorPolicy("given", latent=anchor))
    torch.testing.assert_close(latents(both)[:, :1], given, rtol=1e-9, atol=1e-9)


# --- what is computed, and how often ----------------------------------------------------------------------------------


def test_scales_of_one_need_one_branch(model):
    batches: list[int] = []
    HOOKS.append(model.noise.register_forward_hook(lambda *call: batches.append(call[-1].shape[0])))
    ones = {"guidance_references": 1.0, "guidance_anchor": 1.0, "guidance_text": 1.0, "first_frame_guidance": 1.0}
    make(model, options(3, **ones))
    assert set(batches) == {1}
    for changes, most in (
        ({"guidance_text": 2.0}, 2),
        ({"guidance_text": 2.0, "guidance_anchor": 1.5}, 3),
        ({"guidance_text": 2.0, "guidance_anchor": 1.5, "guidance_references": 1.2}, 4),
        ({"guidance_references": 1.2}, 3),
    ):
        batches.clear()
        make(model, options(2, **{**ones, **changes}, batch_size=2))
        assert batches[-1] == 2 * most


def test_mask_network_sees_every_frame_but_the_first_once_an_evaluation(model):
    calls: list[int] = []
    HOOKS.append(model.mask.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape[0])))
    settings = options(1, sampler="dpmpp_2s_ancestral", steps=3, guidance_text=3.0, guidance_references=1.5)
    assert make(model, settings)[0].mask is None
    assert calls == []
    frames = make(model, settings, given=torch.zeros(1, 4, 4, 4))
    assert frames == []
    frames = make(model, options(2, **_of(settings)), given=torch.zeros(1, 4, 4, 4))
    assert calls == [1] * num_evaluations("dpmpp_2s_ancestral", 3)
    assert frames[0].mask.shape == (1, 1, 4, 4)
    assert 0 < frames[0].mask.min() <= frames[0].mask.max() < 1
    calls.clear()
    assert make(model, options(2, use_mask=False))[1].mask is None
    assert calls == []


def _of(settings: GenerateOptions) -> dict[str, object]:
    chosen = {name: value for name, value in vars(settings).items() if value is not None}
    return {name: value for name, value in chosen.items() if name != "num_frames"}


def test_conditions_are_computed_once_a_frame_and_not_once_a_step(model):
    calls: Counter = Counter()

    def count(module: nn.Module, name: str) -> None:
        HOOKS.append(module.register_forward_pre_hook(lambda *_: calls.update([name])))

    attentions = 0
    for network in (model.noise, model.mask):
        count(network.reference_adapter, "adapter")
        count(network.anchor_encoder, "anchor encoder")
        for module in network.modules():
            if isinstance(module, CrossAttention):
                attentions += 1
                for name in ("to_k", "to_v", "anchor_to_k", "anchor_to_v"):
                    count(getattr(module, name), name)
    count(model.noise, "network")
    text = text_of(model)
    HOOKS.append(model.text.register_forward_pre_hook(lambda *_: pytest.fail("text was encoded again")))

    for steps in (1, 4):
        calls.clear()
        list(frames_of(model, text, options(3, steps=steps), given=torch.zeros(1, 4, 4, 4)))
        assert calls.pop("network") == 2 * steps
        per_video = dict.fromkeys(("to_k", "to_v"), attentions)
        per_frame = dict.fromkeys(("anchor_to_k", "anchor_to_v"), 2 * attentions)
        assert calls == {"adapter": 4, "anchor encoder": 4, **per_video, **per_frame}


# --- conditions matter ------------------------------------------------------------------------------------------------


def test_text_and_negative_prompt_change_the_video(model):
    negative = model.encode_text(["blurry"])[0]
    plain = latents(make(model, options(2, guidance_text=2.0, first_frame_guidance=2.0)))
    other = latents(make(model, options(2, guidance_text=2.0, first_frame_guidance=2.0), negative=negative))
    assert not torch.equal(plain[0], other[0])
    assert not torch.equal(plain[1], other[1])
    first, second = (latents(list(Pipeline(model).frames(text, options(1)))) for text in ("fox", "hare"))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("level", [0, 150])
def test_noise_level_changes_the_video_and_zero_is_accepted(model, level):
    plain = latents(make(model, options(2, reference_noise_level=20, anchor_noise_level=20)))
    other = latents(make(model, options(2, reference_noise_level=level, anchor_noise_level=level)))
    assert torch.equal(plain[0], other[0])
    assert not torch.equal(plain[1], other[1])


def test_guidance_may_change_from_frame_to_frame(model):
    """Every frame is what a run with its scale would make next."""
    scales = {"guidance_text": ((0, 1.0), (3, 4.0)), "first_frame_guidance": 2.0}
    video = make(model, options(5, **scales))
    weak, strong = (make(model, options(5, **scales | {"guidance_text": scale})) for scale in (1.0, 4.0))
    assert torch.equal(latents(video[:3]), latents(weak[:3]))
    assert not torch.equal(video[3].latent, weak[3].latent)
    given = torch.cat([frame.latent for frame in video[:3]])
    strong = list(frames_of(model, text_of(model, 0), options(5, **scales | {"guidance_text": 4.0}), given=given))
    assert torch.equal(latents(video[3:]), latents(strong))
    constant, single = (make(model, options(3, guidance_text=scale)) for scale in (((0, 4.0),), 4.0))
    assert torch.equal(latents(constant), latents(single))


@pytest.mark.parametrize(
    ("count", "scales"),
    [(8, (1.0, 1.0, 1.0)), (8, (1.0, 1.0, 7.5)), (32, (2.0, 1.5, 4.0)), (8, (0.0, 0.0, 3.0))],
)
def test_a_still_scene_stays_still_where_the_mask_is_one(count, scales):
    """Each frame follows from those before it in the same way, so a long video is made with one guidance only."""
    model = smallest()
    nn.init.constant_(model.mask.diffusion_model.out[2].bias, 50.0)
    nn.init.zeros_(model.mask.diffusion_model.out[2].weight)
    still = model.encode_images(images())
    references, anchor, text = scales
    settings = options(count, guidance_references=references, guidance_anchor=anchor, guidance_text=text)
    frames = make(model, settings, given=still)
    assert len(frames) == count - 1
    assert all(torch.equal(frame.latent, still) for frame in frames)
    assert all((frame.mask == 1).all() for frame in frames)


# --- the pipeline -----------------------------------------------------------------------------------------------------


def test_image_to_video_begins_with_the_image(model, pipeline):
    image = images()
    frames = list(pipeline.frames("a fox", options(3), image=image))
    latent = model.encode_images(image)
    assert torch.equal(frames[0].latent, latent)
    assert torch.equal(frames[0].image, model.decode_latents(latent))
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert frames[0].mask is None
    assert frames[1].mask is not None
    assert all(frame.image.shape == (1, 3, 32, 32) for frame in frames)
    assert all(0 <= frame.image.min() <= frame.image.max() <= 1 for frame in frames)


def test_the_pipeline_goes_on_from_saved_frames(pipeline, tmp_path):
    prompts = [(0, "a fox"), (2, "a hare")]
    whole = list(pipeline.frames(prompts, options(5, batch_size=2)))
    save_latents(tmp_path / "frames.safetensors", [frame.latent for frame in whole[:3]], seed=5)
    saved = load_latents(tmp_path / "frames.safetensors")
    assert saved.seed == 5
    again = list(pipeline.frames(prompts, options(5, batch_size=2), given=saved.latents))
    assert torch.equal(latents(whole), latents(again))
    assert torch.equal(whole[1].image, again[1].image)


def test_each_video_of_a_batch_may_have_its_own_text(exact):
    pipeline = Pipeline(exact)
    both = latents(list(pipeline.frames([(0, ["a fox", "a hare"])], options(2, batch_size=2))))
    alone = latents(list(pipeline.frames("a hare", options(2, seed=6))))
    torch.testing.assert_close(both[:, 1:], alone, rtol=1e-9, atol=1e-9)


def test_one_image_serves_a_batch(pipeline):
    frames = list(pipeline.frames("a fox", options(2, batch_size=2), image=images()))
    assert torch.equal(frames[0].image[0], frames[0].image[1])
    assert not torch.equal(frames[1].image[0], frames[1].image[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 0}, "height is 0; accepted are multiples of 8 up to 16384, such as 8"),
        ({"width": 65}, "width is 65; .* such as 64"),
        ({"width": -8}, "width is -8"),
        ({"width": 10**20}, "such as 16384"),
        ({"num_frames": -1}, "number of frames is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1001}, "steps is 1001"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"sampler": "magic"}, "unknown sampler 'magic'"),
        ({"reference_noise_level": 1000}, "reference_noise_level is 1000"),
        ({"guidance_text": float("nan")}, "guidance_text is nan"),
        ({"guidance_text": ((0, 1.0), (3, float("inf")))}, "guidance_text is inf"),
        ({"guidance_text": ((2, 1.0),)}, r"guidance_text changes at frames \[2\]; the first must be 0"),
        ({"guidance_text": ()}, r"guidance_text changes at frames \[\]"),
        ({"mix_mode": "stir"}, "unknown mix_mode 'stir'"),
        ({"reference_noise_level": 3.5}, "reference_noise_level is 3.5; accepted are whole numbers"),
    ],
)
def test_options_that_cannot_be_sampled(pipeline, changes, message):
    with pytest.raises(ValueError, match=message):
        pipeline.frames("a fox", options(**{"num_frames": 2, **changes}))


def test_input_that_does_not_fit(pipeline, tmp_path):
    with pytest.raises(ValueError, match="exclude each other"):
        pipeline.frames("a fox", options(), image=images(), given=torch.zeros(1, 4, 4, 4))
    with pytest.raises(ValueError, match="a given frame's latent is 1x4x4x8, expected 1x4x4x4"):
        pipeline.frames("a fox", options(), given=torch.zeros(1, 4, 4, 8))
    wide = torch.zeros(1, 4, 4, 8)
    for anchor in (AnchorPolicy("given", latent=wide), AnchorPolicy("given", by_segment=(wide,))):
        with pytest.raises(ValueError, match="the anchor's latent is 1x4x4x8, expected 1x4x4x4"):
            pipeline.frames("a fox", options(), anchor=anchor)
    with pytest.raises(ValueError, match="must start at frame 0"):
        pipeline.frames([(3, "a fox")], options())
    with pytest.raises(ValueError, match="the prompt from frame 0 on has 2 texts, and there are 3 videos"):
        pipeline.frames([(0, ["a fox", "a dog"])], options(batch_size=3))
    with pytest.raises(ValueError, match="no such"):
        load_latents(tmp_path / "none.safetensors")
    without_text = ARTV(preset("tiny"), text=False)
    with pytest.raises(ValueError, match="has no text encoder"):
        Pipeline(without_text).frames("a fox", options())


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("cpu:0") == torch.device("cpu:0")
    for name in (
        "warp",
        "cuda:99",
        "cuda:x",
        "meta",
        "",
        "cpu:",
        "cpu:00",
        "cuda:007",
        "cpu:\u0661",
        "cuda:" + 5000 * "9",
    ):
        with pytest.raises(ValueError, match="device"):
            pick_device(name)


def test_history_guidance_goes_away_from_noisier_references(exact: ARTV):
    """At the references' own level there is nothing to go away from; the first frame has no history."""
    noise = {"reference_noise_level": 10, "sampler": "euler"}
    plain = latents(make(exact, options(3, **noise)))
    same, away, further = (
        latents(make(exact, options(3, **noise, history_guidance=scale, history_noise_level=level)))
        for scale, level in ((1.7, 10), (1.7, 100), (2.4, 100))
    )
    torch.testing.assert_close(same, plain, atol=1e-9, rtol=1e-9)
    assert torch.equal(away[0], plain[0])
    moved, moved_further = (made[1] - plain[1] for made in (away, further))
    assert moved.abs().max() > 1e-4
    torch.testing.assert_close(moved_further, 2 * moved, atol=0.2 * float(moved.abs().max()), rtol=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"history_guidance": float("nan")}, "history_guidance is nan; it must be a finite number"),
        (
            {"history_guidance": 1.5, "history_noise_level": 1000},
            r"history_noise_level is 1000; accepted are 0 \(clean\) to 999",
        ),
        (
            {"history_guidance": 1.5, "reference_noise_level": ((0, 20), (4, 101))},
            "history_noise_level is 100; with history_guidance it must not be below reference_noise_level, which goes "
            "up to 101",
        ),
    ],
)
def test_history_guidance_out_of_range(exact: ARTV, changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        options(**changes).resolved(exact.config)


def test_history_guidance_that_is_off_needs_no_level(exact: ARTV):
    """A schedule may have fewer time steps than the usual level."""
    schedule = replace(exact.config.schedule, num_timesteps=50)
    few = replace(exact.config, schedule=schedule)
    noise = {"reference_noise_level": 10, "anchor_noise_level": 10, "steps": 4}
    assert options(**noise).resolved(few).history_noise_level == 100
    with pytest.raises(ValueError, match="history_noise_level is 100; accepted are 0"):
        options(**noise, history_guidance=1.5).resolved(few)

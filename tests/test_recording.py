"""Runs with a journal: frames equal those of a run without, and any input that decides a frame decides its digest."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from artv_core.method.drift_correction import match_statistics
from artv_core.method.frames import AnchorPolicy, Frame
from artv_core.method.generate import VideoRequest
from artv_core.method.options import GenerateOptions
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.models.artv import ARTV
from artv_core.run.journal_list import list_journals
from artv_core.run.pipeline import Pipeline, load_journal
from artv_core.run.recording import (
    FrameDigests,
    Recording,
    parse_redo,
    record_frames,
    wants_journal,
    weights_digest,
)
from tests.models import quick_options as options
from tests.models import smallest


@pytest.fixture(scope="module")
def model() -> ARTV:
    return smallest()


def text(model: ARTV, *starts: int, last: str = "") -> TextTrack:
    texts = [f"a fox number {start}" for start in starts or (0,)]
    texts[-1] += last
    contexts = [model.encode_text([words])[0] for words in texts]
    return TextTrack([TextSegment(start, context) for start, context in zip(starts or (0,), contexts, strict=True)])


class Run:
    """One run of the spine in a folder; `made` are the frames it had to make."""

    def __init__(self, model: ARTV, folder: Path | None, settings: GenerateOptions, **inputs) -> None:
        self.made: list[int] = []
        self.found: list[int] = []
        recording = None if folder is None else Recording(folder, on_open=lambda j: self.found.append(j.found))
        recording = inputs.pop("recording", recording)
        track = inputs.pop("track", None) or text(model)
        settings = settings.resolved(model.config)
        given = inputs.pop("given", ())
        request = VideoRequest(track, settings, on_step=self._step, **inputs)
        self.frames = list(record_frames(model, request, recording, given))

    def _step(self, index: int, info: object) -> None:
        self.made.append(index)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and list(map(bits, self.frames)) == list(map(bits, other.frames))

    __hash__ = None  # type: ignore[assignment]


def bits(frame: Frame) -> tuple:
    mask = b"" if frame.mask is None else frame.mask.numpy().tobytes()
    return frame.index, frame.latent.numpy().tobytes(), mask


def test_resumed_frames_and_masks_equal_an_uninterrupted_run(model, tmp_path):
    whole = Run(model, None, options())
    first = Run(model, tmp_path, options(4))
    second = Run(model, tmp_path, options())
    third = Run(model, tmp_path, options())
    assert (first.made, second.made, third.made) == ([0, 1, 2, 3], [4, 5], [])
    assert (first.found, second.found, third.found) == ([0], [4], [6])
    assert second == whole
    assert third == whole


@pytest.mark.parametrize("policy", [AnchorPolicy("rolling", window=2), AnchorPolicy("first"), AnchorPolicy("segment")])
def test_resuming_finds_its_references_and_anchor_again(model, tmp_path, policy):
    track = text(model, 0, 3)
    whole = Run(model, None, options(8), anchor=policy, track=track)
    for num_frames in (2, 4, 7, 8):
        last = Run(model, tmp_path, options(num_frames), anchor=policy, track=track)
    assert last == whole
    assert last.made == [7]


def test_batches_are_journaled_together(model, tmp_path):
    Run(model, tmp_path, options(2, batch_size=2))
    assert Run(model, tmp_path, options(4, batch_size=2)) == Run(model, None, options(4, batch_size=2))
    assert list_journals(tmp_path)[0].shape == (2, 4, 4, 4)


def test_given_frames_count(model, tmp_path):
    given = [torch.randn(1, 4, 4, 4) for _ in range(2)]
    whole = Run(model, None, options(), given=given)
    Run(model, tmp_path, options(3), given=given)
    resumed = Run(model, tmp_path, options(), given=given)
    assert resumed == whole
    assert resumed.made == [3, 4, 5]
    assert Run(model, tmp_path, options(), given=[given[0], given[0]]).found == [1]


def test_start_over_makes_everything(model, tmp_path):
    Run(model, tmp_path, options(3))
    again = Run(model, None, options(3), recording=Recording(tmp_path, start_over=True))
    assert again.made == [0, 1, 2]
    assert len(list_journals(tmp_path)) == 2


def test_redo_with_another_seed_keeps_the_frames_before(model, tmp_path):
    first = Run(model, tmp_path, options())
    redone = Run(model, tmp_path, options(redo=((4, 99),)))
    assert redone.made == [4, 5]
    assert redone == Run(model, None, options(redo=((4, 99),)))
    assert [a == b for a, b in zip(map(bits, first.frames), map(bits, redone.frames), strict=True)] == [True] * 4 + [
        False
    ] * 2
    assert Run(model, tmp_path, options()).made == []


def test_redo_with_another_prompt_keeps_the_frames_before(model, tmp_path):
    Run(model, tmp_path, options(), track=text(model, 0, 4))
    changed = text(model, 0, 4, last=" in the rain")
    redone = Run(model, tmp_path, options(), track=changed)
    assert redone.made == [4, 5]
    assert redone == Run(model, None, options(), track=changed)


def test_redo_once_more(model, tmp_path):
    Run(model, tmp_path, options(redo=((2, 9),)))
    assert Run(model, tmp_path, options(redo=((2, 9), (5, 3)))).made == [5]


def test_another_guidance_later_keeps_the_frames_before(model, tmp_path):
    Run(model, tmp_path, options(guidance_text=((0, 1.0), (4, 3.0))))
    changed = options(guidance_text=((0, 1.0), (4, 5.0)))
    again = Run(model, tmp_path, changed)
    assert again.made == [4, 5]
    assert again == Run(model, None, changed)


CHANGES: dict[str, Callable[[GenerateOptions], GenerateOptions]] = {
    name: (lambda settings, name=name, value=value: dataclasses.replace(settings, **{name: value}))
    for name, value in {
        "seed": 6,
        "steps": 2,
        "sampler": "euler",
        "spacing": "karras",
        "eta": 0.5,
        "s_noise": 0.9,
        "guidance_references": 1.5,
        "guidance_anchor": 1.5,
        "guidance_text": 3.0,
        "first_frame_guidance": 3.5,
        "reference_noise_level": 30,
        "anchor_noise_level": 30,
        "mix_mode": "every_branch",
        "use_mask": False,
        "height": 40,
        "width": 40,
        "batch_size": 2,
        "adain_strength": 0.5,
        "reuse_every": 2,
        "reuse_blocks": 2,
        "guidance_interval": (0.5, 1.0),
        "history_guidance": 1.5,
        "first_frame_steps": 4,
        "return_to_anchor": 0.2,
    }.items()
}


def test_every_option_but_the_length_is_tried():
    assert set(CHANGES) | {"num_frames", "redo", "history_noise_level"} == {
        field.name for field in dataclasses.fields(GenerateOptions)
    }


@pytest.fixture(scope="module")
def two_frames(model: ARTV, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("journal")
    assert Run(model, folder, options(2)).found == [0]
    return folder


@pytest.mark.parametrize("name", CHANGES)
def test_no_frame_of_other_settings_is_taken(model, two_frames, tmp_path, name):
    folder = shutil.copytree(two_frames, tmp_path / "journal")
    assert Run(model, folder, CHANGES[name](options(2))).found == [0]


def test_frames_of_the_same_settings_are_taken(model, two_frames, tmp_path):
    folder = shutil.copytree(two_frames, tmp_path / "journal")
    assert Run(model, folder, options(2)).found == [2]


def digests(model: ARTV, track: TextTrack | None = None, settings: GenerateOptions | None = None, **inputs):
    settings = (settings or options()).resolved(model.config)
    given, weights = inputs.pop("given", ()), inputs.pop("weights", None)
    found = FrameDigests(model, VideoRequest(track or text(model), settings, **inputs), given, weights)
    return found.common, [found.frame(index) for index in range(6)]


def test_the_level_of_history_guidance_counts_where_that_is_on(model):
    """Off, it decides nothing, and the digests are those of releases that did not have it."""
    off, on = ([options(history_guidance=scale, history_noise_level=level) for level in (50, 100)] for scale in (1, 2))
    assert digests(model, settings=off[0]) == digests(model, settings=off[1])
    assert digests(model, settings=on[0])[0] != digests(model, settings=on[1])[0]


def test_steps_of_the_first_frame_count_where_they_are_set(model):
    """Not set, the digests are those of releases that did not have the option."""
    assert digests(model, settings=options(first_frame_steps=0)) == digests(model, settings=options())
    assert digests(model, settings=options(first_frame_steps=4))[0] != digests(model, settings=options())[0]


def test_the_same_inputs_have_the_same_digests(model):
    assert digests(model) == digests(smallest(), text(model))
    assert digests(model, settings=options(100)) == digests(model)


@pytest.mark.parametrize(
    "inputs",
    [
        {"negative": torch.ones(77, 64)},
        {"anchor": AnchorPolicy("first")},
        {"anchor": AnchorPolicy("rolling", window=3)},
        {"anchor": AnchorPolicy("given", latent=torch.zeros(1, 4, 4, 4))},
        {"weights": "of another file"},
    ],
    ids=str,
)
def test_whatever_all_frames_share_changes_what_they_share(model, inputs):
    assert digests(model, **inputs)[0] != digests(model)[0]


def test_a_levels_change_counts_from_its_frame_on(model):
    before, after = (
        digests(model, settings=options(reference_noise_level=levels))[1] for levels in (20, ((0, 20), (3, 50)))
    )
    assert [a == b for a, b in zip(before, after, strict=True)] == [True] * 3 + [False] * 3


def test_one_changed_weight_changes_the_digest():
    one, other = smallest(), smallest()
    assert weights_digest(one) == weights_digest(other)
    with torch.no_grad():
        next(other.mask.parameters()).view(-1)[0] += 1e-3  # type: ignore[union-attr]
    assert weights_digest(one) != weights_digest(other)
    assert weights_digest(smallest().to(torch.bfloat16)) != weights_digest(one)


def test_a_run_that_stops_early_leaves_its_journal_to_the_next(model, tmp_path):
    settings = options(0).resolved(model.config)
    frames = record_frames(model, VideoRequest(text(model), settings), Recording(tmp_path))
    for _ in range(3):
        next(frames)
    frames.close()
    assert list_journals(tmp_path)[0].num_frames == 3
    assert Run(model, tmp_path, options(4)).made == [3]


def test_frames_to_go_on_from_can_be_a_journals(model, tmp_path):
    run = Run(model, tmp_path, options(3))
    saved = load_journal(list_journals(tmp_path)[0].path)
    assert torch.equal(saved.latents, torch.stack([frame.latent for frame in run.frames]))
    assert saved.seed == 5


def test_pipeline_decodes_journaled_frames_as_made_ones(model, tmp_path):
    pipeline = Pipeline(model)
    made = list(pipeline.frames("a fox", options(2), recording=Recording(tmp_path)))
    taken = list(pipeline.frames("a fox", options(2), recording=Recording(tmp_path)))
    for one, other in zip(made, taken, strict=True):
        assert torch.equal(one.image, other.image)


@pytest.mark.parametrize(("num_frames", "wanted"), [(1, False), (32, False), (33, True), (0, True)])
def test_long_videos_are_journaled_by_themselves(num_frames, wanted):
    assert wants_journal(num_frames) == wanted


# Redo


def test_redo_is_read_by_lines_and_commas():
    assert parse_redo("") == ()
    assert parse_redo(" 12 : 7 \n\n120:99\n") == ((12, 7), (120, 99))
    assert parse_redo("48: 7, 56: 9,\n60: 1") == ((48, 7), (56, 9), (60, 1))


@pytest.mark.parametrize("written", ["12", "12:", ":7", "a: 7", "12: -7", "1.5: 7", "12: 7: 9", "9" * 100, "²: 7"])
def test_redo_that_will_not_do_is_one_line(written):
    with pytest.raises(ValueError, match="give a frame and a seed, as in 120: 7"):
        parse_redo(written)


@pytest.mark.parametrize("redo", [((0, 1),), ((5, 1), (5, 2)), ((5, 1), (4, 2)), ((5, 2**64),)])
def test_redo_of_frames_and_seeds_that_cannot_be(model, redo):
    with pytest.raises(ValueError, match=r"redo names frames|the seed from frame"):
        options(redo=redo).resolved(model.config)


# AdaIN


def test_matched_statistics_are_the_anchors():
    latent, anchor = torch.randn(2, 4, 8, 8) * 3 + 1, torch.randn(2, 4, 8, 8) * 0.5 - 2
    matched = match_statistics(latent, anchor, 1.0)
    for got, wanted in ((matched.mean((-2, -1)), anchor.mean((-2, -1))), (matched.std((-2, -1)), anchor.std((-2, -1)))):
        assert torch.allclose(got, wanted, atol=1e-5)
    halfway = match_statistics(latent, anchor, 0.5)
    assert torch.allclose(halfway, (latent + matched) / 2, atol=1e-5)


def test_matching_nothing_or_without_an_anchor_is_exact():
    latent, anchor = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    assert match_statistics(latent, anchor, 0.0) is latent
    assert match_statistics(latent, None, 1.0) is latent
    assert torch.isfinite(match_statistics(torch.zeros_like(latent), anchor, 1.0)).all()


def test_every_frame_after_the_first_has_the_anchors_statistics(model):
    run = Run(model, None, options(4, adain_strength=1.0))
    means = torch.stack([frame.latent.mean((-2, -1)) for frame in run.frames])
    assert torch.allclose(means, means[:1].expand_as(means), atol=1e-4)
    free = torch.stack([frame.latent.mean((-2, -1)) for frame in Run(model, None, options(4)).frames])
    assert not torch.allclose(free, free[:1].expand_as(free), atol=1e-2)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_adain_strength_that_cannot_be(model, strength):
    with pytest.raises(ValueError, match="adain_strength is"):
        options(adain_strength=strength).resolved(model.config)

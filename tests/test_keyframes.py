"""Frames given anywhere in a video, and an anchor for each prompt: what later frames see, journals, and mistakes."""

import re

import pytest
import torch
from torch import Tensor

from artv_core.method import generate
from artv_core.method.frames import AnchorPolicy, Frame, FrameBuffer
from artv_core.method.generate import VideoRequest, check_keyframes, generate_frames
from artv_core.method.options import GenerateOptions
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.models.artv import ARTV
from artv_core.run.pipeline import Pipeline
from artv_core.run.recording import FrameDigests, Recording, record_frames
from tests.models import quick_options as options
from tests.models import smallest


@pytest.fixture(scope="module")
def model() -> ARTV:
    return smallest()


def picture(seed: int) -> Tensor:
    return torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def text(model: ARTV, *starts: int) -> TextTrack:
    contexts = {start: model.encode_text([f"a fox number {start}"])[0] for start in starts or (0,)}
    return TextTrack([TextSegment(start, context) for start, context in contexts.items()])


def request(model: ARTV, settings: GenerateOptions | None = None, starts: tuple[int, ...] = (0,), **inputs):
    return VideoRequest(text(model, *starts), (settings or options()).resolved(model.config), **inputs)


def make(model: ARTV, settings: GenerateOptions | None = None, starts=(0,), given=(), **inputs) -> list[Frame]:
    return list(generate_frames(model, request(model, settings, starts, **inputs), given))


def bits(frame: Frame) -> tuple:
    mask = b"" if frame.mask is None else frame.mask.contiguous().numpy().tobytes()
    return frame.index, frame.latent.contiguous().numpy().tobytes(), mask


# Keyframes


def test_a_keyframe_is_taken_and_frames_before_it_do_not_change(model):
    plain, placed = make(model), make(model, keyframes={3: picture(1)})
    assert [frame.index for frame in placed] == list(range(6))
    assert list(map(bits, placed[:3])) == list(map(bits, plain[:3]))
    assert torch.equal(placed[3].latent, picture(1))
    assert placed[3].mask is None
    assert placed[4].mask is not None
    assert not torch.equal(placed[4].latent, plain[4].latent)


def test_frames_after_a_keyframe_do_not_depend_on_the_frames_before_it(model):
    one, other = (make(model, given=[picture(seed)], keyframes={3: picture(1)}) for seed in (7, 8))
    assert not torch.equal(one[1].latent, other[1].latent)
    assert list(map(bits, one[2:])) == list(map(bits, other[2:]))


def test_a_keyframe_at_frame_0_is_a_first_frame(model):
    as_keyframe, as_given = make(model, keyframes={0: picture(1)}), make(model, given=[picture(1)])
    assert list(map(bits, as_keyframe[1:])) == list(map(bits, as_given))


SEEN = {
    "segment": {1: 0, 2: 1, 4: 3, 5: 3, 6: 5, 7: 5},
    "first": {1: 0, 2: 0, 4: 0, 5: 0, 6: 0, 7: 0},
    "rolling": {1: 0, 2: 0, 4: 3, 5: 3, 6: 4, 7: 5},
    "none": {},
}
"""Which frame is the anchor of each frame. Prompts start at frames 0, 2 and 6, and frame 3 is a keyframe."""


@pytest.mark.parametrize("kind", SEEN)
def test_what_a_frame_sees_after_a_keyframe(model, monkeypatch, kind):
    seen = {}

    class Spy(FrameBuffer):
        def anchor(self) -> Tensor | None:
            seen[self.count] = (super().anchor(), self.references())
            return super().anchor()

    monkeypatch.setattr(generate, "FrameBuffer", Spy)
    frames = make(model, options(8), (0, 2, 6), anchor=AnchorPolicy(kind, window=2), keyframes={3: picture(1)})
    made = [frame.latent for frame in frames]
    assert list(seen) == [0, 1, 2, 4, 5, 6, 7]
    assert seen.pop(0) == (None, None)
    for index, (anchor, references) in seen.items():
        place = SEEN[kind].get(index)
        assert (anchor is None) == (place is None), index
        assert place is None or torch.equal(anchor, made[place]), index
        earlier = max(index - 2, 3 if index > 3 else 0)
        assert torch.equal(references, torch.stack([made[earlier], made[index - 1]], dim=1)), index


def test_neighbouring_keyframes_are_the_first_frames_of_a_shot(model):
    """So two of them give the motion, as two given frames do."""
    pictures = {3: picture(1), 4: picture(2)}
    made = make(model, options(7), keyframes=pictures)
    alone = make(model, options(7), keyframes={4: picture(2)})
    assert not torch.equal(made[5].latent, alone[5].latent)
    shifted = make(model, options(7), keyframes={0: picture(1), 1: picture(2)})
    given = make(model, options(7), given=list(pictures.values()))
    assert list(map(bits, shifted[2:])) == list(map(bits, given))


def test_keyframes_side_by_side_and_at_the_end(model):
    frames = make(model, keyframes={2: picture(1), 3: picture(2), 5: picture(3)})
    assert [frame.mask is None for frame in frames] == [True, False, True, True, False, True]
    assert torch.equal(frames[5].latent, picture(3))


def test_all_videos_of_a_batch_share_a_keyframe(model):
    frames = make(model, options(batch_size=2), keyframes={1: picture(1)[0]})
    assert torch.equal(frames[1].latent, picture(1).expand(2, -1, -1, -1))
    assert not torch.equal(frames[2].latent[0], frames[2].latent[1])


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_run_with_keyframes_goes_on_as_if_it_had_not_stopped(model, tmp_path, stop):
    inputs = {"starts": (0, 4), "keyframes": {2: picture(1), 5: picture(2)}}
    whole = list(record_frames(model, request(model, options(8), **inputs)))
    list(record_frames(model, request(model, options(stop), **placed_before(inputs, stop)), Recording(tmp_path)))
    found, made = [], []
    recording = Recording(tmp_path, on_open=lambda journal: found.append(journal.found))
    inputs["on_step"] = lambda index, info: made.append(index)
    resumed = list(record_frames(model, request(model, options(8), **inputs), recording))
    assert found == [stop]
    assert made == [index for index in range(stop, 8) if index not in (2, 5)]
    assert list(map(bits, resumed)) == list(map(bits, whole))


def placed_before(inputs: dict, stop: int) -> dict:
    """The same inputs without the keyframes that are not in a video of `stop` frames."""
    return inputs | {"keyframes": {k: latent for k, latent in inputs["keyframes"].items() if k < stop}}


def digests(model: ARTV, starts=(0,), given=(), **inputs) -> tuple[str, list[bytes]]:
    found = FrameDigests(model, request(model, starts=starts, **inputs), given, "weights")
    return found.common, [found.frame(index) for index in range(6)]


def test_a_keyframe_decides_its_own_digest_alone(model):
    plain, one, other = (digests(model, keyframes=keyframes) for keyframes in ({}, {3: picture(1)}, {3: picture(2)[0]}))
    assert plain[0] == one[0] == other[0]
    for first, second in ((plain, one), (one, other)):
        assert [a == b for a, b in zip(first[1], second[1], strict=True)] == [True] * 3 + [False] + [True] * 2
    given = digests(model, given=[picture(seed) for seed in range(4)])[1]
    assert given[3] != digests(model, keyframes={3: picture(3)})[1][3]  # a given frame does not begin a new shot


def test_redo_never_makes_a_keyframe_again(model):
    placed = {3: picture(1)}
    plain, redone = (make(model, options(redo=redo), keyframes=placed) for redo in ((), ((3, 99),)))
    assert list(map(bits, plain[:4])) == list(map(bits, redone[:4]))
    assert not torch.equal(plain[4].latent, redone[4].latent)


@pytest.mark.parametrize(
    ("positions", "num_given", "num_frames", "message"),
    [
        ([-1], 0, 6, "a keyframe is at frame -1; frames are counted from 0"),
        (
            [4, 0],
            1,
            6,
            "frame 0 is given twice: as a keyframe, and as one of the first frames (0 to 0); move the keyframe",
        ),
        ([2, 6], 0, 6, "a keyframe is at frame 6, but the video has 6 frames, 0 to 5; make more frames or move"),
        ([1, 2], 1, 3, "all 3 frames are given, so none is left to make"),
    ],
)
def test_keyframes_that_do_not_fit(model, positions, num_given, num_frames, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_keyframes(positions, num_given, num_frames)
    placed, given = dict.fromkeys(positions, picture(1)), [picture(0)] * num_given
    with pytest.raises(ValueError, match=re.escape(message)):
        Pipeline(model).frames("a fox", options(num_frames), given=given, keyframes=placed)
    with pytest.raises(ValueError, match=re.escape(message)):
        next(record_frames(model, request(model, options(num_frames), keyframes=placed), None, given))


def test_keyframes_of_another_size(model):
    with pytest.raises(ValueError, match="latent is 1x4x8x4, expected 1x4x4x4; make it the size of the video"):
        Pipeline(model).frames("a fox", options(), keyframes={3: torch.zeros(4, 8, 4)})


def test_a_video_without_end_has_keyframes_anywhere(model):
    check_keyframes([100], 0, 0)


# An anchor for each prompt


def test_each_prompt_has_its_own_anchor(model):
    one, two, three = (picture(seed) for seed in range(3))
    starts, both = (0, 3), AnchorPolicy("given", by_segment=(one, two))
    frames = make(model, options(6), starts, anchor=both)
    first = make(model, options(3), starts, anchor=AnchorPolicy("given", latent=one))
    rest = make(model, options(6), starts, [frame.latent for frame in first], anchor=AnchorPolicy("given", latent=two))
    assert list(map(bits, frames)) == list(map(bits, first + rest))
    other = make(model, options(6), starts, anchor=AnchorPolicy("given", by_segment=(one, three)))
    assert list(map(bits, other[:3])) == list(map(bits, frames[:3]))
    assert not torch.equal(other[3].latent, frames[3].latent)


def test_prompts_that_start_together_are_one_segment(model):
    words = model.encode_text(["a fox"])[0]
    track = TextTrack([TextSegment(0, words, end=9), TextSegment(0, words, end=9), TextSegment(4, words, end=9)])
    assert track.starts == (0, 4)
    assert [track.segment(frame) for frame in (0, 3, 4, 100)] == [0, 0, 1, 1]
    assert [track.starts_segment(frame) for frame in (0, 1, 4, 5)] == [True, False, True, False]


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_run_with_an_anchor_for_each_prompt_goes_on(model, tmp_path, stop):
    inputs = {"starts": (0, 3), "anchor": AnchorPolicy("given", by_segment=(picture(1), picture(2)))}
    whole = list(record_frames(model, request(model, **inputs)))
    list(record_frames(model, request(model, options(stop), **inputs), Recording(tmp_path)))
    found = []
    recording = Recording(tmp_path, on_open=lambda journal: found.append(journal.found))
    resumed = list(record_frames(model, request(model, **inputs), recording))
    assert found == [stop]
    assert list(map(bits, resumed)) == list(map(bits, whole))


def test_a_changed_anchor_changes_the_digests_of_its_prompt(model):
    starts, one, two, three = (0, 3), picture(1), picture(2), picture(3)
    usual, changed, single = (
        digests(model, starts, anchor=anchor)
        for anchor in (
            AnchorPolicy("given", by_segment=(one, two)),
            AnchorPolicy("given", by_segment=(one, three)),
            AnchorPolicy("given", latent=one),
        )
    )
    assert usual[0] == changed[0] != single[0]
    assert [a == b for a, b in zip(usual[1], changed[1], strict=True)] == [True] * 3 + [False] * 3


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_anchors_as_prompts_are_needed(model, count):
    message = f"the number of anchor images is {count}, the number of prompts 2; give one image for each prompt"
    anchor = AnchorPolicy("given", by_segment=tuple(picture(seed) for seed in range(count)))
    with pytest.raises(ValueError, match=message):
        request(model, starts=(0, 3), anchor=anchor)


def test_policies_and_latents_that_do_not_fit():
    with pytest.raises(ValueError, match="need each other"):
        AnchorPolicy("first", by_segment=(picture(1),))
    with pytest.raises(ValueError, match="one or the other"):
        AnchorPolicy("given", latent=picture(1), by_segment=(picture(1),))

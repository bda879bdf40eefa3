import math

import pytest
import torch

from artv_core.prompts.grammar import parse_prompt_schedule
from tests.pack import pack_module

layout = pack_module("artv_core.method.text_track")
MAX_WEIGHT, TextSegment, TextTrack = layout.MAX_WEIGHT, layout.TextSegment, layout.TextTrack
lengthened, mean_context = layout.lengthened, layout.mean_context
prompt_track = pack_module("nodes.prompt_track")
text_track = prompt_track.text_track

A, B, C = (torch.randn(5, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3))


def entry(context, **keys):
    """An entry of native CONDITIONING, as the host's own encoder makes them, with keys of ours."""
    return [context[None], {"pooled_output": torch.zeros(1, 8), **{f"artv_{name}": key for name, key in keys.items()}}]


def scheduled(text: str, blend_frames: int, contexts: dict[str, torch.Tensor]) -> TextTrack:
    """What the scheduler node's output comes to."""
    schedule = parse_prompt_schedule(text, segment_frames=4)
    return text_track(
        entry(contexts[segment.text], range=(span.start, span.end), fade=(span.fade_in, span.fade_out))
        for segment, span in zip(schedule.segments, schedule.spans(blend_frames), strict=True)
    )


# Keyframes


def test_keyframes_hold_until_the_next_and_are_passed_on_as_they_are():
    track = TextTrack([TextSegment(0, A), TextSegment(3, B), TextSegment(5, A)])
    assert [track.context(frame) is A for frame in (0, 2, 3, 4, 5, 10**9)] == [True, True, False, False, True, True]
    assert track.context(3) is track.context(4) is B
    assert [frame for frame in range(12) if track.starts_segment(frame)] == [0, 3, 5]


def test_a_schedule_without_blends_is_the_same_to_the_bit():
    keyframes = TextTrack([TextSegment(0, A), TextSegment(3, B), TextSegment(5, A)])
    entries = scheduled("0: a\n3: b\n5: a", 0, {"a": A, "b": B})
    for frame in range(20):
        assert torch.equal(entries.context(frame)[0], keyframes.context(frame))
        assert entries.starts_segment(frame) == keyframes.starts_segment(frame)


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ([], "must start at frame 0"),
        ([1], "must start at frame 0"),
        ([0, 0], "after the one before"),
        ([0, 5, 3], "after the one before"),
        ([5, 0], "after the one before"),
    ],
)
def test_keyframes_that_will_not_do(starts, message):
    with pytest.raises(ValueError, match=message):
        TextTrack([TextSegment(start, A) for start in starts])


# Blends and weights


def test_a_blend_is_a_linear_cross_fade_after_the_change():
    track = scheduled("0: a\n4: b", 3, {"a": A, "b": B})
    for frame, share in [(3, 0), (4, 0.25), (5, 0.5), (6, 0.75), (7, 1), (100, 1)]:
        torch.testing.assert_close(track.context(frame)[0], (1 - share) * A + share * B, msg=f"frame {frame}")
    assert torch.equal(track.context(3)[0], A)
    assert torch.equal(track.context(7)[0], B)
    assert [frame for frame in range(12) if track.starts_segment(frame)] == [0, 4]


def test_a_prompt_that_is_said_again_does_not_change_in_a_blend():
    track = scheduled("0: a\n4: a", 3, {"a": A})
    assert all(torch.equal(track.context(frame)[0], A) for frame in range(12))
    assert track.starts_segment(4)


def test_entries_of_one_frame_are_averaged_by_weight():
    track = text_track(
        [entry(A), entry(B, range=(2, 4), weight=3), entry(C, range=[3, 4], weight=4.0), entry(C, weight=0)]
    )
    torch.testing.assert_close(track.context(0)[0], A)
    torch.testing.assert_close(track.context(2)[0], (A + 3 * B) / 4)
    torch.testing.assert_close(track.context(3)[0], (A + 3 * B + 4 * C) / 8)
    assert torch.equal(track.context(4)[0], A)
    assert [frame for frame in range(6) if track.starts_segment(frame)] == [0, 2, 3]


def test_one_entry_is_itself_whatever_its_weight():
    context = A.half()
    track = text_track([entry(context, weight=0.3, range=(0, 9), fade=(4, 4))])
    assert all(torch.equal(track.context(frame)[0], context) for frame in range(20))


def test_entries_may_come_in_any_order():
    entries = [entry(B, range=(4, None)), entry(A, range=(0, 4))]
    track = text_track(entries)
    assert [torch.equal(track.context(frame)[0], B) for frame in range(6)] == [False] * 4 + [True] * 2


def test_a_frame_without_entries_goes_on_with_the_text_before():
    track = text_track([entry(A, range=(0, 2)), entry(B, range=(1, 2)), entry(C, range=(5, 6))])
    for frame in (2, 3, 4):
        assert torch.equal(track.context(frame), track.context(1))
    torch.testing.assert_close(track.context(1)[0], (A + B) / 2)
    assert torch.equal(track.context(5)[0], C)
    assert torch.equal(track.context(100)[0], C)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"range": (1, 4)}, "must start at frame 0"),
        ({"weight": 0}, "must start at frame 0"),
        ({"range": (0, 0)}, "an end after the start"),
        ({"range": (-1, 4)}, "give a start of 0 or more"),
        ({"range": 4}, "artv_range is 4; it must be two whole numbers"),
        ({"range": (0,)}, "artv_range"),
        ({"range": (None, 4)}, "artv_range"),
        ({"range": (0.5, 4)}, "artv_range"),
        ({"range": "04"}, "artv_range"),
        ({"fade": (0, None)}, "artv_fade is"),
        ({"fade": (0, -1)}, "fades in 0 and out -1"),
        ({"weight": "1"}, "artv_weight is '1'"),
        ({"weight": -1.0}, "weight -1.0; accepted are 1e-06 to 1e"),
        ({"weight": math.nan}, "weight nan"),
        ({"weight": math.inf}, "weight inf"),
        ({"weight": 2 * MAX_WEIGHT}, "weight 2000000.0"),
    ],
)
def test_entries_that_will_not_do(keys, message):
    with pytest.raises(ValueError, match=message) as caught:
        text_track([entry(A, **keys)])
    assert "\n" not in str(caught.value)


# Means


def test_longer_and_shorter_prompts_meet_at_a_common_length():
    longer = torch.cat([B, C])
    mean = mean_context([(A[None], 1.0), (longer[None], 1.0)])
    torch.testing.assert_close(mean[0], (torch.cat([A, A]) + longer) / 2)
    assert mean_context([(A[:2], 1.0), (A[:3], 1.0)]).shape == (6, 8)
    with pytest.raises(ValueError, match=r"widths \[4, 8\]"):
        mean_context([(A, 1.0), (A[:, :4], 1.0)])


def test_attention_does_not_notice_repeated_tokens():
    query = torch.randn(3, 8, generator=torch.Generator().manual_seed(9))
    once, thrice = (
        torch.nn.functional.scaled_dot_product_attention(query[None], keys[None], keys[None])
        for keys in (A, lengthened(A, 15))
    )
    torch.testing.assert_close(once, thrice)
    assert lengthened(A, 5) is A


def test_means_keep_type_and_batch():
    batch = torch.stack([A, B]).half()
    mean = mean_context([(C.half(), 1.0), (batch, 3.0)])
    assert mean.dtype == torch.float16
    torch.testing.assert_close(mean[1].float(), C / 4 + B * 3 / 4, atol=2e-3, rtol=2e-3)


def test_a_batch_of_texts_is_refused_before_anything_is_made():
    """As some packs give it: a text for each frame in one entry. The prompts of a batch of videos would be others."""
    batch = [[torch.zeros(16, 5, 8), {}]]
    for positive, negative, name in (([entry(A)], batch, "negative"), (batch, None, "positive")):
        with pytest.raises(ValueError, match=f"{name} has 16 texts in one entry, .* use ARTV Multi-Prompt Scheduler"):
            prompt_track.read_texts(positive, negative, torch.zeros(5, 8), 16)


def test_what_other_nodes_add_to_prompts_and_has_no_effect_is_told_in_one_line(caplog):
    noted = entry(A)
    noted[1] |= {"control": object(), "start_percent": 0.25, "end_percent": 1.0, "mask": torch.ones(1, 8, 8)}
    negative = [[A[None], {"area": (8, 8, 0, 0), "strength": 1.0}]]
    prompt_track.read_texts([entry(A), noted], negative, torch.zeros(5, 8), 16)
    (told,) = caplog.messages
    assert "has no effect here: ControlNet, an area, a mask, a range of steps; " in told
    assert "\n" not in told
    neutral = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "hooks": None}
    prompt_track.read_texts([entry(A, range=(0, 3)), [A[None], neutral]], None, torch.zeros(5, 8), 16)
    assert caplog.messages == [told]

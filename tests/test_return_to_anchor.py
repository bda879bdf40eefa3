"""What stands still takes the anchor's value again, and things keep their edges."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from artv_core.config import ARTVConfig
from artv_core.method.drift_correction import return_to_anchor
from artv_core.method.frames import AnchorPolicy, Frame
from artv_core.method.generate import VideoRequest
from artv_core.method.options import GenerateOptions
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.models.artv import ARTV
from artv_core.run.recording import FrameDigests
from tests.models import frames_of, untrained

REACH = 0.2
SMALL_ERROR, THING = 0.1, 3.0
COPIED = torch.ones(1, 1, 8, 8)


@pytest.fixture(scope="module")
def model() -> ARTV:
    """One whose mask copies much."""
    model = untrained()
    torch.nn.init.constant_(model.mask.diffusion_model.out[2].bias, 2.0)
    return model


@pytest.fixture
def anchor() -> Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def options(num_frames: int = 3, **changes: object) -> GenerateOptions:
    quick: dict = {"height": 32, "width": 32, "steps": 2, "seed": 5}
    return GenerateOptions(num_frames=num_frames, **{**quick, **changes})


def made(model: ARTV, **changes: object) -> list[Frame]:
    track = TextTrack([TextSegment(0, model.encode_text(["a fox"])[0])])
    inputs = {"anchor": changes.pop("anchor")} if "anchor" in changes else {}
    return list(frames_of(model, track, options(**changes), **inputs))


def test_still_ground_is_the_anchors_to_the_bit(anchor):
    assert torch.equal(return_to_anchor(anchor + SMALL_ERROR, COPIED, anchor, REACH), anchor)


def test_without_reach_mask_or_anchor_nothing_changes(anchor):
    latent = anchor + SMALL_ERROR
    assert return_to_anchor(latent, COPIED, anchor, 0.0) is latent
    assert return_to_anchor(latent, None, anchor, REACH) is latent
    assert return_to_anchor(latent, COPIED, None, REACH) is latent


@pytest.mark.parametrize("shown_in", ["frame", "anchor"])
def test_the_edge_of_a_thing_stays(anchor, shown_in):
    """Cells beside a thing may show a little of it, in the new frame or in the anchor: they are no ground."""
    latent = anchor + SMALL_ERROR
    thing = latent if shown_in == "frame" else anchor
    thing[..., 3, 3] += THING
    found = return_to_anchor(latent, COPIED, anchor, REACH)
    assert torch.equal(found[..., 2:5, 2:5], latent[..., 2:5, 2:5])
    returned = (found == anchor).all(dim=1)[0]
    assert int(returned.sum()) == 64 - 9


def test_what_the_mask_does_not_copy_stays_with_its_neighbours(anchor):
    latent, mask = anchor + SMALL_ERROR, COPIED.clone()
    mask[..., 3, 3] = 0.0
    found = return_to_anchor(latent, mask, anchor, REACH)
    assert torch.equal(found[..., 2:5, 2:5], latent[..., 2:5, 2:5])
    assert int((found == anchor).all(dim=1).sum()) == 64 - 9


@pytest.mark.parametrize(("error", "share"), [(0.2, 1.0), (0.3, 0.5), (0.4, 0.0), (2.0, 0.0)])
def test_further_away_less_returns(anchor, error, share):
    found = return_to_anchor(anchor + error, COPIED, anchor, REACH)
    assert torch.allclose(found, anchor + (1 - share) * error, atol=1e-5)


@pytest.mark.parametrize(("copied", "share"), [(0.3, 0.0), (0.45, 0.5), (0.6, 1.0)])
def test_the_less_is_copied_the_less_returns(anchor, copied, share):
    found = return_to_anchor(anchor + SMALL_ERROR, copied * COPIED, anchor, REACH)
    assert torch.allclose(found, anchor + (1 - share) * SMALL_ERROR, atol=1e-5)


def test_one_anchor_is_enough_for_a_batch_and_videos_do_not_see_each_other(anchor):
    latent = torch.cat([anchor + SMALL_ERROR, anchor + THING])
    found = return_to_anchor(latent, COPIED.expand(2, -1, -1, -1), anchor, REACH)
    assert torch.equal(found[:1], anchor)
    assert torch.equal(found[1:], latent[1:])


def test_generated_frames_return_to_the_anchor(model):
    """Frame 1 is made of the same inputs either way; what is done to it shows in frame 2."""
    free, held = made(model), made(model, return_to_anchor=1.0)
    assert torch.equal(free[0].latent, held[0].latent)
    returned = return_to_anchor(free[1].latent, free[1].mask, free[0].latent, 1.0)
    assert torch.equal(held[1].latent, returned)
    assert not torch.equal(held[1].latent, free[1].latent)
    assert not torch.equal(held[2].latent, free[2].latent)


@pytest.mark.parametrize("changes", [{"use_mask": False}, {"anchor": AnchorPolicy("none")}])
def test_without_a_mask_network_or_an_anchor_frames_stay_as_they_are(model, changes):
    free, held = made(model, **changes), made(model, return_to_anchor=1.0, **changes)
    assert all(torch.equal(one.latent, other.latent) for one, other in zip(free, held, strict=True))


def test_the_checkpoint_may_recommend_it(model):
    sampling = replace(model.config.sampling, return_to_anchor=0.2)
    config = replace(model.config, sampling=sampling)
    assert options().resolved(config).return_to_anchor == 0.2
    assert options(return_to_anchor=0.0).resolved(config).return_to_anchor == 0.0
    assert options().resolved(model.config).return_to_anchor == 0.0
    assert ARTVConfig.from_json(config.to_json()) == config
    assert "return_to_anchor" not in model.config.to_json()


@pytest.mark.parametrize("reach", [-0.1, 1.1, float("nan")])
def test_a_reach_that_cannot_be_is_one_line(model, reach):
    with pytest.raises(ValueError, match=r"return_to_anchor is .*; accepted are 0 \(off\) to 1"):
        options(return_to_anchor=reach).resolved(model.config)


def test_unused_the_digests_of_a_journal_are_those_of_earlier_releases(model):
    """It is then not among what is digested."""
    track = TextTrack([TextSegment(0, model.encode_text(["a fox"])[0])])

    def digest(settings: GenerateOptions) -> str:
        return FrameDigests(model, VideoRequest(track, settings), (), "weights").common

    off = options().resolved(model.config)
    assert digest(off) == digest(replace(off, return_to_anchor=None))
    assert digest(off) != digest(replace(off, return_to_anchor=0.2))

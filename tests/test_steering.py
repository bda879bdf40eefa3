"""Steering: what is said counts from the next frame on, and the schedule of what was done makes the same again."""

import json
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from artv_core.method.frames import AnchorPolicy, Frame
from artv_core.method.generate import VideoRequest
from artv_core.method.options import MAX_SEED, GenerateOptions
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.models.artv import ARTV
from artv_core.prompts.grammar import parse_prompt_schedule
from artv_core.prompts.prompt_schedule import PromptSchedule, PromptSegment
from artv_core.run.journal_folder import SIDECAR, newest_first
from artv_core.run.recording import Recording, record_frames
from artv_core.run.steered_track import MAX_CHARACTERS, FixedTrack, SteeredTrack, checked_prompt
from artv_core.run.steering import SteeredRun, kept_beside
from tests.models import smallest

BEGIN = [(0, "a red circle moving right")]


@pytest.fixture(scope="module")
def model() -> ARTV:
    return smallest()


def options(model: ARTV, num_frames: int = 8, **changes) -> GenerateOptions:
    quick: dict = {"height": 32, "width": 32, "steps": 1, "sampler": "euler_ancestral", "seed": 5}
    return GenerateOptions(num_frames=num_frames, **{**quick, **changes}).resolved(model.config)


def encoder(model: ARTV):
    return lambda text: model.encode_weighted(text).detach()


def steered(
    model: ARTV,
    num_frames: int = 8,
    folder: Path | None = None,
    blend: int = 0,
    owner: str | None = None,
    **inputs,
) -> SteeredRun:
    track = SteeredTrack(inputs.pop("prompts", BEGIN), encoder(model), blend)
    request = VideoRequest(track, options(model, num_frames, **inputs.pop("changes", {})), **inputs)
    return SteeredRun(model, request, folder and Recording(folder, weights="of this test"), owner=owner)


def kept_of_two_frames(model: ARTV, folder: Path) -> Path:
    """What is kept beside the journal of a run that ended after "a blue square" was said and two frames were made."""
    run = steered(model, 4, folder)
    frames = run.frames()
    next(frames)
    run.steering.say("a blue square")
    next(frames)
    frames.close()
    (sidecar,) = folder.glob(f"*{SIDECAR}")
    return sidecar


def made_again(model: ARTV, run: SteeredRun, num_frames: int = 8, blend: int = 0) -> list[Tensor]:
    """The frames of the run's schedule and seeds, without steering."""
    segments = run.track.schedule().segments
    spans = run.track.schedule().spans(blend)
    contexts = {text: encoder(model)(text) for text in {segment.text for segment in segments}}
    ends = [2**62 if span.end is None else span.end for span in spans]
    track = TextTrack(
        [
            TextSegment(span.start, contexts[segment.text], end, 1.0, span.fade_in, span.fade_out)
            for span, segment, end in zip(spans, segments, ends, strict=True)
        ]
    )
    settings = replace(options(model, num_frames), redo=run.redo)
    return [frame.latent for frame in record_frames(model, VideoRequest(track, settings))]


def kept(frames: Iterator[Frame], into: list[Tensor]) -> Iterator[Frame]:
    """Put each frame where it belongs; after a step back, later ones are dropped."""
    for frame in frames:
        into[frame.index :] = [frame.latent]
        yield frame


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def test_without_a_word_the_frames_are_the_usual_ones(model: ARTV):
    run = steered(model)
    assert equal([frame.latent for frame in run.frames()], made_again(model, run))
    assert (run.track.said, run.redo) == ([], ())


def test_a_run_that_is_not_steered_leaves_nothing_beside_its_journal(model: ARTV, tmp_path: Path):
    list(steered(model, 2, tmp_path).frames())
    assert not list(tmp_path.glob(f"*{SIDECAR}"))


@pytest.mark.parametrize("blend", [0, 2])
def test_what_is_said_counts_from_the_next_frame_on_and_makes_the_same_again(model: ARTV, blend: int):
    run, frames = steered(model, 12, blend=blend), []
    for frame in kept(run.frames(), frames):
        if frame.index == 2:
            run.steering.say("a blue square moving up")
        if frame.index in (3, 4):  # while the first one fades in
            run.steering.say(f"a green triangle moving down, said at {frame.index}")
    second = 3 if blend == 0 else 6
    assert [start for start, _ in run.track.said] == ([3, 4, 5] if blend == 0 else [3, second])
    assert run.track.said[0][1] == "a blue square moving up"
    assert run.track.said[-1][1].endswith("at 4"), "what is said last counts"
    assert equal(frames, made_again(model, run, 12, blend))
    assert not torch.equal(frames[-1], made_again(model, steered(model, 12), 12)[-1])


def test_a_scheduled_prompt_takes_over_again(model: ARTV):
    prompts = [*BEGIN, (5, "a green circle moving left")]
    run, frames = steered(model, 8, prompts=prompts), []
    for frame in kept(run.frames(), frames):
        if frame.index == 1:
            run.steering.say("a blue square moving up")
    assert run.track.prompts == [BEGIN[0], (2, "a blue square moving up"), prompts[1]]
    assert equal(frames, made_again(model, run))


@pytest.mark.parametrize("with_journal", [False, True])
def test_steps_back_leave_the_frames_before_as_they_were(model: ARTV, tmp_path: Path, with_journal: bool):
    """Twenty times at random, with another text or the same; in the end a run of the schedule is the same."""
    rng = random.Random(3)
    run, frames = steered(model, 16, tmp_path if with_journal else None), []
    steps = 0
    for frame in kept(run.frames(), frames):
        if frame.index < 3 or steps == 20 or rng.random() < 0.5:
            continue
        before, back = list(frames), rng.randrange(1, min(8, frame.index))
        text = rng.choice([None, f"a blue square, step {steps}"])
        first = run.steering.back(back, text=text)
        assert first == frame.index + 1 - back
        steps += 1
        assert equal(frames[:first], before[:first])
    assert steps == 20
    assert equal(frames, made_again(model, run, 16))


def test_a_step_back_makes_other_frames(model: ARTV):
    run, frames, dropped = steered(model, 6), [], []
    for frame in kept(run.frames(), frames):
        if frame.index == 4 and not dropped:
            run.steering.say("never seen")
            run.steering.back(3, seed=77)
            dropped = list(frames)
    assert run.redo == ((2, 77),)
    assert run.track.said == []
    assert equal(frames[:2], dropped[:2])
    assert not torch.equal(frames[2], dropped[2])
    assert equal(frames, made_again(model, run, 6))


@pytest.mark.parametrize("with_journal", [False, True])
def test_a_step_back_with_another_text_keeps_the_seed(model: ARTV, tmp_path: Path, with_journal: bool):
    """A journal has the frames that are dropped; they are not taken from it."""
    run, frames, asked = steered(model, 6, tmp_path if with_journal else None), [], False
    for frame in kept(run.frames(), frames):
        if frame.index == 4 and not asked:
            asked = True
            run.steering.back(3, text="a blue square")
    assert (run.track.said, run.redo) == ([(2, "a blue square")], ())
    assert equal(frames, made_again(model, run, 6))


@pytest.mark.parametrize("with_journal", [False, True])
def test_another_text_after_a_step_back_waits_until_a_prompt_has_faded_in(
    model: ARTV, tmp_path: Path, with_journal: bool
):
    prompts = [*BEGIN, (2, "a green circle moving left")]
    run, asked = steered(model, 8, tmp_path if with_journal else None, 2, prompts=prompts), False
    frames: list[Tensor] = []
    for frame in kept(run.frames(), frames):
        if frame.index == 6 and not asked:
            asked = True
            run.steering.back(4, text="a blue square")
    assert run.track.said == [(5, "a blue square")]
    assert equal(frames, made_again(model, run, 8, 2))


def test_a_step_back_with_another_text_keeps_the_seeds_that_frames_had(model: ARTV):
    """Also of frames that are made again from another seed, and of later ones."""
    redo = ((2, 7), (4, 6))
    run, frames, asked = steered(model, 6, changes={"redo": redo}), [], False
    for frame in kept(run.frames(), frames):
        if frame.index == 4 and not asked:
            asked = True
            run.steering.back(3, text="a blue square")
    assert (run.track.said, run.redo) == ([(2, "a blue square")], redo)
    assert equal(frames, made_again(model, run, 6))


@pytest.mark.parametrize("with_journal", [False, True])
@pytest.mark.parametrize("redo", [((2, 6),), ((2, 7), (4, 6))])
def test_a_step_back_makes_other_frames_in_a_run_that_began_with_other_seeds(
    model: ARTV, tmp_path: Path, redo: tuple[tuple[int, int], ...], with_journal: bool
):
    run = steered(model, 5, tmp_path if with_journal else None, changes={"redo": redo})
    frames, dropped = [], []
    for frame in kept(run.frames(), frames):
        if frame.index == 3 and not dropped:
            run.steering.back(1)
            dropped = list(frames)
    assert equal(frames[:3], dropped[:3])
    assert not torch.equal(frames[3], dropped[3])


def test_the_next_seed_is_one_that_no_frame_had(model: ARTV):
    """Also after a lower one, and after the highest."""
    run = steered(model, 6, changes={"seed": MAX_SEED - 1})
    steps = iter([None, None, MAX_SEED - 3, None, None])
    taken = []
    for frame in run.frames():
        if frame.index == 4 and len(taken) < 5:
            run.steering.back(2, seed=next(steps))
            taken.append(run.steering.seeds[-1])
    assert taken == [MAX_SEED, 0, MAX_SEED - 3, MAX_SEED - 2, 1]


def test_no_video_of_a_batch_gets_a_seed_that_another_had(model: ARTV):
    run = steered(model, 3, changes={"seed": MAX_SEED - 5, "batch_size": 3})
    taken = []
    for frame in run.frames():
        if frame.index == 2 and len(taken) < 2:
            run.steering.back(1)
            taken.append(run.steering.seeds[-1])
    assert taken == [MAX_SEED - 2, 0]  # video 2 has 2 more
    with pytest.raises(ValueError, match=f"the seed is {MAX_SEED - 1}; accepted are 0 to {MAX_SEED - 2}"):
        run.steering.back(1, seed=MAX_SEED - 1)


def test_what_is_raised_while_a_run_is_paused_ends_it(model: ARTV):
    def interrupt() -> None:
        raise KeyboardInterrupt

    run = steered(model, 4)
    run.steering.while_paused = interrupt
    run.steering.pause()
    with pytest.raises(KeyboardInterrupt):
        list(run.frames())


def test_what_is_said_after_a_step_back_is_for_the_frames_made_again(model: ARTV):
    run, frames, asked = steered(model, 6), [], False
    for frame in kept(run.frames(), frames):
        if frame.index == 4 and not asked:
            asked = True
            run.steering.back(3)
            run.steering.say("a blue square")
    assert run.track.said == [(2, "a blue square")]
    assert run.redo == ((2, 6),)


def test_a_run_that_was_killed_goes_on_with_all_that_was_done(model: ARTV, tmp_path: Path):
    """Ten times at random: said, gone back, killed between two frames. Nothing that was made is lost."""
    rng = random.Random(1)
    frames: list[Tensor] = []
    total = 30
    for _ in range(10):
        run = steered(model, total, tmp_path)
        before, seen = list(frames), 0
        for frame in kept(run.frames(), frames):
            if frame.index < len(before) and seen == frame.index:
                assert torch.equal(frame.latent, before[frame.index])
            seen = max(seen, frame.index + 1)
            if seen <= len(before):
                continue
            if rng.random() < 0.5:
                run.steering.say(f"a green square, said at {frame.index}")
            if frame.index > 4 and rng.random() < 0.2:
                run.steering.back(rng.randrange(1, 4))
            elif seen > len(before) + 1 and rng.random() < 0.5:
                break  # the process is killed
        assert len(frames) >= min(len(before), total) - 4
    last = steered(model, total, tmp_path)
    made = [frame.latent for frame in last.frames()]
    assert equal(made, made_again(model, last, total))
    assert last.track.said


def test_a_finished_run_is_not_gone_on_with(model: ARTV, tmp_path: Path):
    """Asked for again, the schedule is what was asked for: what was said is in the schedule that it gave back."""
    run = steered(model, 4, tmp_path)
    for frame in run.frames():
        if frame.index == 1:
            run.steering.say("a blue square")
    assert run.track.said
    again = steered(model, 4, tmp_path)
    list(again.frames())
    assert again.track.said == []


def interrupted(model: ARTV, folder: Path, owner: str | None, said_at: int = 1) -> SteeredRun:
    """A run of 6 frames in which something was said, and which was killed after frame 2."""
    run = steered(model, 6, folder, owner=owner)
    for frame in run.frames():
        if frame.index == said_at:
            run.steering.say("a blue square")
        if frame.index == 2:
            return run
    raise AssertionError


@pytest.mark.parametrize("said_at", [0, 1])
@pytest.mark.parametrize("owner", ["first", None])
def test_only_its_owner_goes_on_with_an_interrupted_run(model: ARTV, tmp_path: Path, owner: str | None, said_at: int):
    """Another one's run is made as it was asked for, and does not take the first one's words away."""
    run = interrupted(model, tmp_path, owner, said_at)
    for other in ("second", "third"):
        plain = steered(model, 6, tmp_path, owner=other)
        assert equal([frame.latent for frame in plain.frames()], made_again(model, steered(model, 6), 6))
        assert (plain.track.said, plain.redo) == ([], ())
    last = steered(model, 6, tmp_path, owner=owner)
    assert equal([frame.latent for frame in last.frames()], made_again(model, last, 6))
    assert last.track.said == run.track.said != []


def test_a_word_before_any_frame_has_it_stays_its_owners(model: ARTV, tmp_path: Path):
    """The journal then has only frames that others would make, and they go on in it."""
    run = steered(model, 6, tmp_path, owner="first")
    frames = run.frames()
    next(frames)
    run.steering.say("a blue square")
    run.track.begin(1)
    frames.close()
    other = steered(model, 6, tmp_path, owner="second")
    assert len(list(other.frames())) == 6
    last = steered(model, 6, tmp_path, owner="first")
    list(last.frames())
    assert (other.track.said, last.track.said) == ([], [(1, "a blue square")])


@pytest.mark.parametrize("step_back", [False, True])
def test_words_that_the_schedule_takes_are_not_taken_from_an_interrupted_run(
    model: ARTV, tmp_path: Path, step_back: bool
):
    """Without them in the schedule, they were undone. Seeds are in no schedule."""
    run = steered(model, 6, tmp_path)
    for frame in run.frames():
        if frame.index == 3 and not run.was_steered:
            run.steering.back(2, **({"seed": 7} if step_back else {"text": "a blue square"}))
        if frame.index == 4:
            break
    again = steered(model, 6, tmp_path)
    again.words_in_schedule = True
    assert equal([frame.latent for frame in again.frames()], made_again(model, again, 6))
    assert (again.track.said, again.redo) == ([], ((2, 7),) if step_back else ())


def beside(said: str = "[]", redo: str = "[]", num_frames: str = "4") -> str:
    return f'{{"begun_with": %s, "said": {said}, "redo": {redo}, "num_frames": {num_frames}, "finished": false}}'


@pytest.mark.parametrize(
    "damage",
    [
        *("", "{", "[]", '{"said": [[-1, "x"]]}', "x" * 20, "[" * 100_000),
        *map(beside, ["[[1, 7]]", '[[1e999, "x"]]', '[[-1, "x"]]', f'[[{2**70}, "x"]]', '[[1.5, "x"]]', "[[1]]", "7"]),
        *(beside(redo=redo) for redo in ("[[1e999, 7]]", "[[2, 7], [1, 8]]", f"[[1, {2**64}]]", '[[1, "7"]]')),
        *(beside('[[1, "x"]]', num_frames=number) for number in ("1e999", '"4"', "-1")),
    ],
)
def test_a_damaged_file_beside_a_journal_is_ignored(model: ARTV, tmp_path: Path, damage: str):
    sidecar = kept_of_two_frames(model, tmp_path)
    begun_with = json.dumps(json.loads(sidecar.read_text())["begun_with"])
    sidecar.write_text(damage.replace("%s", begun_with))
    again = steered(model, 4, tmp_path)
    assert len(list(again.frames())) == 4
    assert (again.track.said, again.redo) == ([], ())


def test_pause_stop_and_words_from_another_thread(model: ARTV):
    run, reached = steered(model, 0), threading.Event()
    frames: list[Frame] = []

    def make() -> None:
        for frame in run.frames():
            frames.append(frame)
            if frame.index == 2:
                run.steering.pause()
                reached.set()

    thread = threading.Thread(target=make)
    thread.start()
    assert reached.wait(60)
    thread.join(0.3)
    assert (len(frames), run.steering.paused) == (3, True)
    run.steering.say("a blue square")
    run.steering.go_on()
    while len(frames) < 5:
        thread.join(0.01)
    run.steering.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert run.track.said[0] == (3, "a blue square")


def test_a_paused_run_takes_a_step_back(model: ARTV):
    run, frames = steered(model, 6), []
    for frame in kept(run.frames(), frames):
        if frame.index == 4 and not run.redo:
            run.steering.pause()
            threading.Timer(0.1, lambda: (run.steering.back(2), run.steering.go_on())).start()
    assert run.redo == ((3, 6),)
    assert len(frames) == 6
    assert run.steering.paused_seconds > 0.09


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the prompt is empty"),
        (" \n", "the prompt is empty"),
        ("a" * 10_000, f"the prompt has 10000 characters; accepted are up to {MAX_CHARACTERS}"),
        ("(fox:1e9)", "weight"),
        ("a cat \ud83d", "half of a character"),
        ("a cat --neg a dog", "got --neg"),
        ("a cat (tail:`sin(t)`)", "cannot have expressions"),
        ("a pw_a cat", "cannot have expressions"),
    ],
)
def test_a_prompt_that_will_not_do_is_refused_and_nothing_stops(model: ARTV, text: str, message: str):
    run, frames = steered(model, 4), []
    for frame in kept(run.frames(), frames):
        with pytest.raises(ValueError, match=message):
            run.steering.say(text)
        if frame.index > 1:
            with pytest.raises(ValueError, match=message):
                run.steering.back(1, text=text)
    assert equal(frames, made_again(model, run, 4))


def test_every_prompt_that_can_be_said_is_read_from_the_schedule():
    hypothesis = pytest.importorskip("hypothesis")
    strategies = hypothesis.strategies
    odd = strategies.sampled_from(
        [
            "--neg",
            "--",
            "`t`",
            "`",
            "pw_a",
            "pw_",
            "\ufeff",
            "\u200b",
            "\u2028",
            "\0",
            "\n",
            "\\",
            '"',
            "[0-3:",
            "]",
            "24:",
            "#",
            " ",
            "fox",
        ]
    )

    @hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @hypothesis.given(strategies.lists(odd | strategies.characters(), max_size=6).map("".join))
    def there_and_back(text):
        try:
            said = checked_prompt(text)
        except ValueError:
            return
        schedule = PromptSchedule((PromptSegment(0, None, said),))
        assert parse_prompt_schedule(schedule.canonical(), segment_frames=1) == schedule

    there_and_back()
    assert checked_prompt("\ufeff a\ufeff fox (tail:1.2) `") == "a fox (tail:1.2) `"


def test_what_was_said_in_an_earlier_version_is_taken_over(model: ARTV, tmp_path: Path):
    sidecar = kept_of_two_frames(model, tmp_path)
    sidecar.write_text(sidecar.read_text().replace("a blue square", "a blue `square`"))
    again = steered(model, 4, tmp_path)
    next(again.frames())
    assert again.track.said == [(1, "a blue `square`")]


def test_a_thousand_words_a_frame_keep_the_last(model: ARTV):
    run = steered(model, 3)
    for frame in run.frames():
        if frame.index == 0:
            for number in range(1000):
                run.steering.say(f"a blue square {number}")
    assert run.track.said == [(1, "a blue square 999")]


def test_steps_back_that_cannot_be(model: ARTV):
    run = steered(model, 4)
    with pytest.raises(ValueError, match="none can be dropped yet"):
        run.steering.back(1)
    for frame in run.frames():
        if frame.index == 3:
            for frames in (0, -1, 4):
                with pytest.raises(ValueError, match=r"accepted are 1 to 3 \(frame 0 stays\)"):
                    run.steering.back(frames)
            with pytest.raises(ValueError, match="the seed is -1; accepted are 0 to"):
                run.steering.back(1, seed=-1)


def test_prompts_that_cannot_be_changed(model: ARTV):
    """As from conditioning without its encoder: the run can be taken back all the same."""
    context = encoder(model)("a red circle")
    track = TextTrack([TextSegment(0, context), TextSegment(3, context * 1.1)])
    run = SteeredRun(model, VideoRequest(FixedTrack(track), options(model, 6)))
    frames: list[Tensor] = []
    for frame in kept(run.frames(), frames):
        with pytest.raises(ValueError, match="cannot be changed while it goes on"):
            run.steering.say("a blue square")
        if frame.index == 4 and not run.redo:
            with pytest.raises(ValueError, match="cannot be changed while it goes on"):
                run.steering.back(1, text="a blue square")
            run.steering.back(2)
            with pytest.raises(ValueError, match="cannot be changed while it goes on"):
                run.steering.say("a blue square")
    settings = replace(options(model, 6), redo=((3, 6),))
    assert equal(frames, [frame.latent for frame in record_frames(model, VideoRequest(track, settings))])


def test_a_step_back_to_a_frame_counts_from_the_start(model: ARTV):
    run, frames = steered(model, 8), []
    for frame in kept(run.frames(), frames):
        if frame.index == 6 and not run.redo:
            assert run.steering.back_to(3) == 3
            assert run.steering.back_to(2, 7, "a blue square") == 2, "the later one counts"
            with pytest.raises(ValueError, match="accepted are 1 to 6"):
                run.steering.back_to(0)
    assert (run.redo, run.track.said) == (((2, 7),), [(2, "a blue square")])


def test_whether_a_run_came_to_its_end_is_kept(model: ARTV, tmp_path: Path):
    """Of runs that are always kept, and of those that were steered."""
    run = steered(model, 4, tmp_path)
    run.always_kept = True
    frames = run.frames()
    next(frames)
    (journal,) = newest_first(tmp_path)
    begun = kept_beside(journal)
    assert begun is not None
    assert (begun.num_frames, begun.finished) == (4, False)
    list(frames)
    ended = kept_beside(journal)
    assert ended is not None
    assert ended.finished
    assert kept_beside(tmp_path / "none.artvj") is None


def test_a_shorter_run_does_not_end_the_longer_one(model: ARTV, tmp_path: Path):
    """Asked for fewer frames than there are, an interrupted run gives them and can still go on."""
    run = steered(model, 6, tmp_path)
    for frame in run.frames():
        if frame.index == 1:
            run.steering.say("a blue square")
        if frame.index == 4:
            break
    shorter = steered(model, 3, tmp_path)
    assert len(list(shorter.frames())) == 3
    last = steered(model, 6, tmp_path)
    assert len(list(last.frames())) == 6
    assert shorter.track.said == last.track.said == run.track.said != []
    (journal,) = newest_first(tmp_path)
    kept = kept_beside(journal)
    assert kept is not None
    assert kept.finished


def test_one_anchor_for_each_prompt_cannot_be_steered(model: ARTV):
    latent = torch.zeros(1, 4, 4, 4)
    with pytest.raises(ValueError, match="give one anchor for all"):
        steered(model, anchor=AnchorPolicy("given", by_segment=(latent,)))

"""`artv play`: opens a page where a video is made, frame by frame, while you watch and direct it."""

from __future__ import annotations

import argparse
import asyncio
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.terminal import INTERRUPTED, say
from .generate_options import add_look_options, add_speed_options
from .options import add_model_options, check_seed, load_pipeline, warn_of_words
from .play_settings import KEPT_AS, check_resumed, repeat_command, usual_values, words_of

if TYPE_CHECKING:
    from ..config import ARTVConfig
    from ..method.options import GenerateOptions
    from ..play.session import Session
    from ..run.pipeline import Pipeline
    from ..run.steering import SteeredRun

CHECKPOINT = "tiny"


def add_command(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "play",
        help="direct a video while it is made, in a page of your browser",
        description="Makes a video frame by frame and shows it in a page at once. What you say in the page takes "
        "effect from the next frame on. Ctrl-C ends it; every frame is kept, and --resume goes on.",
        allow_abbrev=False,
    )
    parser.add_argument("--prompt", metavar="TEXT", help="what to show first; default: a prompt that the model knows")
    parser.add_argument(
        "--output", type=Path, default=Path("artv-play"), metavar="DIR", help="folder for files; default: %(default)s"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the newest run in the folder, if it was interrupted"
    )
    parser.add_argument("--frames", type=int, metavar="N", help="end after N frames; 0 (default): no end")
    parser.add_argument("--seed", type=int, help="default: a random one")
    parser.add_argument("--port", type=int, default=0, metavar="P", help="port of the page; 0 (default): a free one")
    parser.add_argument("--no-browser", action="store_true", help="only print the page's address")
    group = parser.add_argument_group(
        "how to make it",
        "Settings that you leave out have the values that the checkpoint recommends. Only --steps is different: it is "
        "what this computer makes in real time, from 2 up to the recommended number.",
    )
    add_look_options(group)
    add_speed_options(parser)
    add_model_options(parser, f"{CHECKPOINT} (default, because a CPU makes it nearly in real time) or small")
    parser.set_defaults(run=run_play, batch=None, redo=[], checkpoint=CHECKPOINT)
    parser.set_defaults(usual=usual_values(parser), parser=parser)


def run_play(args: argparse.Namespace) -> int:
    """Open the page and make the video, until Ctrl-C or until the page is gone for some time."""
    from ..checkpoint import describe_checkpoint, resolve_checkpoint
    from ..play.pace import short_collections
    from ..play.session import Session
    from ..play.trial import FEWEST_STEPS, threads_of_torch, tried

    if not 0 <= args.port < 2**16:
        raise ValueError(f"--port is {args.port}; accepted are 0 (any free one) to {2**16 - 1}")
    _make_folder(args.output)
    if args.resume:
        args = resumed(args)
    config = describe_checkpoint(resolve_checkpoint(args.checkpoint)).config
    args.prompt = _first_prompt(args, config)
    args.seed = _seed() if args.seed is None else args.seed
    options = play_options(args, config)
    pipeline = load_pipeline(args)
    warn_of_words(pipeline, [args.prompt])
    trial = tried(pipeline, args.prompt, options)
    if args.steps is None:
        args.steps = trial.fitting_steps(config.fps, options.steps or FEWEST_STEPS)
        args.first_frame_steps = options.first_frame_steps or options.steps
        say(f"{args.steps} of {options.steps} steps a frame, {trial.in_words(config.fps)} (--steps)")
        options = play_options(args, config)
    with threads_of_torch(trial.threads), short_collections():
        run = make_run(pipeline, options, args)
        session = Session(pipeline, run, args.output, partial(repeat_command, args), resumed=args.resume)
        return _serve(session, args)


def play_options(args: argparse.Namespace, config: ARTVConfig) -> GenerateOptions:
    """The options that the arguments name. Raises ValueError on options out of range."""
    from .generate import sampling_options

    check_seed(args.seed, 1)
    return sampling_options(args, config, 0)


def make_run(pipeline: Pipeline, options: GenerateOptions, args: argparse.Namespace) -> SteeredRun:
    """The run with its journal. Raises ValueError if the prompt will not do, or if a run that is to go on cannot."""
    from ..method.generate import VideoRequest
    from ..run.journal_folder import FOLDER
    from ..run.recording import Recording, weights_digest
    from ..run.steered_track import SteeredTrack, checked_prompt
    from ..run.steering import SteeredRun

    def encode(text: str) -> Any:
        return pipeline.encode_prompts(text).segments[0].context

    prompt = checked_prompt(args.prompt)
    if pipeline.taesd is None:
        pipeline.model.require_vae()
    request = VideoRequest(SteeredTrack([(0, prompt)], encode), options, run_networks=pipeline.run_networks)
    about = {"prompt": prompt[:200], KEPT_AS: words_of(args)}
    digest = weights_digest(pipeline.model)
    recording = Recording(args.output / FOLDER, not args.resume, digest, about)
    if args.resume:
        _check_same(pipeline, request, recording, args.journal)
    run = SteeredRun(pipeline.model, request, recording)
    run.always_kept = True
    return run


def _check_same(pipeline: Pipeline, request: Any, recording: Any, journal: Path) -> None:
    from ..run.journal_file import JournalReader
    from ..run.recording import FrameDigests

    with JournalReader(journal) as reader:
        if reader.header.run != FrameDigests(pipeline.model, request, (), recording.weights).common:
            raise ValueError(
                f"{journal} cannot go on: the checkpoint, --device, --dtype or the computer has changed since; use the "
                "same ones, or start a new run without --resume"
            )


def resumed(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments of the newest run in the folder; its `journal` is among them. Raises ValueError if that run is
    finished or longer than the frames that are asked for, or if there is none."""
    from ..run.journal_folder import FOLDER, newest_first
    from ..run.steering import kept_beside

    check_resumed(args)
    for journal in newest_first(args.output / FOLDER):
        words, kept = _kept_words(journal), kept_beside(journal)
        if words is None or kept is None:
            continue  # of another command, or of a process that was killed before it made a frame
        if kept.finished:
            raise ValueError(f"the newest run in {args.output} is finished; start a new one without --resume")
        again = args.parser.parse_args(words)
        for name in ("output", "resume", "port", "no_browser"):
            setattr(again, name, getattr(args, name))
        wanted = (args.frames, kept.num_frames, again.frames)
        again.frames = next((frames for frames in wanted if frames is not None), None)
        again.journal = journal
        _check_not_shorter(again.frames, journal)
        return again
    raise ValueError(f"there is no interrupted run in {args.output}; start one without --resume")


def _check_not_shorter(frames: int | None, journal: Path) -> None:
    from ..run.journal_file import JournalReader

    with JournalReader(journal) as reader:
        count = reader.num_records
    if frames and frames < count:
        raise ValueError(
            f"--frames is {frames}, but the run has {count} frames already; give {count} or more, or 0 for no end"
        )


def _kept_words(journal: Path) -> list[str] | None:
    from ..run.journal_file import JournalReader

    with suppress(ValueError), JournalReader(journal) as reader:
        words = reader.header.about.get(KEPT_AS)
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return words
    return None


def _first_prompt(args: argparse.Namespace, config: ARTVConfig) -> str:
    from ..run.steered_track import checked_prompt
    from .demo_clips import script_for

    if args.prompt is None and not config.vocabulary:
        raise ValueError(f"{config.name} knows no prompt to start with; give one with --prompt")
    return checked_prompt(script_for(config).text if args.prompt is None else args.prompt)


def _seed() -> int:
    import secrets

    return secrets.randbelow(2**32)


def _serve(session: Session, args: argparse.Namespace) -> int:
    from ..play.server import PlayServer
    from ..run.execute import first_stop_noted

    session.start()
    with first_stop_noted() as stopped:  # a second Ctrl-C does not wait for a video that is being saved
        try:
            asyncio.run(PlayServer(session, stopped).run(args.port, _opener(args.no_browser)))
        finally:
            session.close()
    if not stopped.is_set():
        say("no page is open any more")
    if session.failure is not None:
        raise session.failure
    kept = "" if session.ended else f"; go on with: artv play --resume --output {args.output}"
    say(f"{session.made} frames are kept in {args.output}{kept}")
    return INTERRUPTED if stopped.is_set() else 0


def _opener(no_browser: bool) -> Callable[[str], None]:
    def open_page(address: str) -> None:
        print(address, flush=True)
        say("Ctrl-C ends it")
        if not no_browser:
            threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()

    return open_page


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {path}: {(error.strerror or str(error)).lower()}") from None

"""`artv generate`: turns arguments into a job, and runs the job."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.terminal import INTERRUPTED, say
from ..run.job import Job, changed_settings, check_images
from .generate_options import add_arguments
from .options import add_model_options, check_seed, load_pipeline, print_paths, warn_of_words
from .without_effect import without_effect

if TYPE_CHECKING:
    from ..config import ARTVConfig
    from ..method.options import GenerateOptions, GuidanceScale
    from ..run.pipeline import SavedLatents

MAX_BATCH = 256


def add_command(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "generate",
        help="make a video from text, or from text and an image",
        description="Makes a video. Settings that you leave out are those that the checkpoint recommends.",
        allow_abbrev=False,
    )
    add_arguments(parser)
    add_model_options(parser)
    parser.set_defaults(run=run_generate)


def run_generate(args: argparse.Namespace) -> int:
    """Run the command. As many errors as possible are found before the weights are loaded."""
    from ..checkpoint import describe_checkpoint, resolve_checkpoint
    from ..run.execute import run_job
    from ..run.outputs import check_outputs, output_paths

    path = resolve_checkpoint(args.checkpoint)
    job = generate_job(args, describe_checkpoint(path).config)
    check_images(job)
    check_outputs(job, [file for file in (path, args.base, args.taesd, args.prompts, args.continue_from) if file])
    pipeline = load_pipeline(args)
    warn_of_words(pipeline, [text for _, text in job.prompts] + ([job.negative] if job.negative else []))
    written = run_job(pipeline, job)
    if written:
        print_paths(output_paths(job))
    return 0 if written >= job.options.num_frames else INTERRUPTED


def generate_job(args: argparse.Namespace, config: ARTVConfig) -> Job:
    """The job that the arguments describe. Raises ValueError if it cannot be done."""
    from ..method.generate import check_keyframes

    fps = config.fps if args.fps is None else args.fps
    prompts = _prompts(args, config.segment_frames, fps)
    saved = _saved_frames(args)
    num_given = len(saved.latents) if saved else int(args.image is not None)
    # One segment for each prompt or keyframe, plus one for the frames to continue from.
    keyframes = _keyframes(args)
    last = max(prompts[-1][0], len(saved.latents) if saved else 0, *(frame for frame, _ in keyframes))
    usual = last + config.segment_frames
    options = sampling_options(args, config, usual, saved)
    if 0 < options.num_frames <= num_given:
        raise ValueError(f"--frames is {options.num_frames} and includes the {num_given} given; give a larger number")
    check_keyframes([frame for frame, _ in keyframes], num_given, options.num_frames)
    _check_anchor(args, prompts)
    if args.no_mask and args.mask_video:
        raise ValueError("--no-mask and --mask-video cannot be used together: the video would be black")
    if options.num_frames == 0 and args.save_latents:
        raise ValueError(
            "--frames 0 and --save-latents exclude each other, because all frames would stay in "
            "memory; the journal has them, and --continue-from reads it"
        )
    job = Job(
        prompts=prompts,
        options=options,
        videos=_numbered(args.output, options.batch_size),
        masks=_numbered(args.mask_video, options.batch_size) if args.mask_video else (),
        latents=args.save_latents,
        drift=_numbered(args.drift, options.batch_size) if args.drift else (),
        fps=fps,
        upscale=args.upscale,
        image=args.image,
        given=saved.latents if saved else None,
        negative=args.negative,
        anchor="given" if args.anchor_image else args.anchor or "segment",
        anchor_images=args.anchor_image,
        keyframes=keyframes,
        checkpoint=config.name,
        journal=_journal_folder(args, options.num_frames),
        start_over=args.start_over,
        stream=args.stream or options.num_frames == 0,
    )
    _warn(args, job, saved)
    return job


def _warn(args: argparse.Namespace, job: Job, saved: SavedLatents | None) -> None:
    for line in without_effect(args, job):
        say(f"warning: {line}")
    changes = changed_settings(job, saved.made_with) if saved else []
    if changes:
        say(
            "warning: settings differ from the saved run, so the result will not match one "
            f"continuous run: {'; '.join(changes)}"
        )


def _check_anchor(args: argparse.Namespace, prompts: list[tuple[int, str]]) -> None:
    if args.anchor and args.anchor_image:
        raise ValueError("--anchor and --anchor-image cannot be used together")
    if len(args.anchor_image) not in (0, 1, len(prompts)):
        raise ValueError(
            f"--anchor-image was given {len(args.anchor_image)} times, the number of prompts is {len(prompts)}; "
            "give it once for all prompts, or once for each prompt"
        )


def _keyframes(args: argparse.Namespace) -> list[tuple[int, Path]]:
    found: dict[int, Path] = {}
    for text in args.keyframe:
        frame, _, path = text.partition("=")
        if not (frame.isascii() and frame.isdecimal() and len(frame) < 10 and path):
            raise ValueError(f"--keyframe is {text[:100]!r}; give a frame and an image, as in 16=picture.png")
        if int(frame) in found:
            raise ValueError(f"--keyframe names frame {int(frame)} twice; give one image for each frame")
        found[int(frame)] = Path(path)
    return sorted(found.items())


def _journal_folder(args: argparse.Namespace, num_frames: int) -> Path | None:
    from ..run.journal_folder import FOLDER
    from ..run.recording import wants_journal

    if args.no_journal and (args.journal or args.start_over):
        raise ValueError(f"--no-journal and {'--journal' if args.journal else '--start-over'} cannot be used together")
    if args.journal is not None:
        return args.journal
    return args.output.parent / FOLDER if wants_journal(num_frames) and not args.no_journal else None


def _prompts(args: argparse.Namespace, segment_frames: int, fps: float) -> list[tuple[int, str]]:
    from ..prompts.prompt_file import read_prompt_file

    if (args.prompt is None) == (args.prompts is None):
        found = "no prompt was given" if args.prompt is None else "a PROMPT and --prompts were both given"
        raise ValueError(f"{found}; give one of the two: a PROMPT or --prompts FILE")
    if args.prompts is not None:
        prompts = read_prompt_file(args.prompts, segment_frames, fps, lambda line: say(f"warning: {line}"))
        return [(start, text) for start, text in prompts]
    if not args.prompt.strip():
        raise ValueError("the prompt is empty; say what to show")
    return [(0, args.prompt)]


def _saved_frames(args: argparse.Namespace) -> SavedLatents | None:
    from ..run.journal_file import SUFFIX
    from ..run.pipeline import load_journal, load_latents

    if args.continue_from is None:
        return None
    if args.image is not None:
        raise ValueError("--image and --continue-from cannot be used together: the image would be frame 0")
    is_journal = args.continue_from.suffix == SUFFIX
    saved = load_journal(args.continue_from) if is_journal else load_latents(args.continue_from)
    if args.batch not in (None, saved.latents.shape[1]):
        raise ValueError(
            f"--batch is {args.batch}, but {args.continue_from} contains {saved.latents.shape[1]} "
            "videos; leave --batch out"
        )
    return saved


def sampling_options(
    args: argparse.Namespace, config: ARTVConfig, usual_frames: int, saved: SavedLatents | None = None
) -> GenerateOptions:
    """The options that the arguments name, resolved. Without `--frames` there are `usual_frames`; `saved` are frames to
    continue from. Raises ValueError on options out of range."""
    from ..method.options import GenerateOptions
    from ..run.pipeline import like_saved
    from ..run.recording import parse_redo

    seed = args.seed if args.seed is not None else saved.seed if saved else 0
    batch = 1 if args.batch is None else args.batch
    if args.frames is not None and args.frames < 0:
        raise ValueError(f"--frames is {args.frames}; give 1 or more, or 0 to continue until stopped")
    if not 1 <= batch <= MAX_BATCH:
        raise ValueError(f"--batch is {batch}; accepted are 1 to {MAX_BATCH}")
    options = GenerateOptions(
        num_frames=usual_frames if args.frames is None else args.frames,
        height=args.height,
        width=args.width,
        seed=seed,
        batch_size=batch,
        steps=args.steps,
        first_frame_steps=args.first_frame_steps,
        sampler=args.sampler,
        guidance_references=args.cfg_references,
        guidance_anchor=args.cfg_anchor,
        guidance_text=_text_scale(args.cfg_text),
        first_frame_guidance=args.cfg_first,
        reference_noise_level=args.noise_level,
        anchor_noise_level=args.noise_level,
        use_mask=not args.no_mask,
        redo=parse_redo("\n".join(args.redo)),
        adain_strength=args.adain,
        return_to_anchor=args.return_to_anchor,
        reuse_every=args.reuse_every,
        reuse_blocks=args.reuse_blocks,
        guidance_interval=tuple(args.guidance_interval),
    )
    if saved:
        options = like_saved(options, saved, config.vae.factor)
    check_seed(seed, options.batch_size)
    return options.resolved(config)


def _text_scale(text: str | None) -> GuidanceScale | None:
    """A number, or pairs such as `0: 3, 24: 6`."""
    from ..prompts.numbers import numbers_by_frame

    if text is None:
        return None
    with suppress(ValueError):
        return float(text)
    try:
        return numbers_by_frame(text.replace(",", "\n"), "--cfg-text")
    except ValueError:
        accepted = "a number, or frames from 0 on with numbers, as in '0: 3, 24: 6'"
        raise ValueError(f"--cfg-text is {text[:50]!r}; give {accepted}") from None


def _numbered(path: Path, count: int) -> list[Path]:
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(count)]

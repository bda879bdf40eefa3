"""The command line: `artv demo`, `generate`, `journals`, `info`, `prepare`, `train`, `bench`, `evaluate`. What a user
gets wrong is one line and exit code 2.

What is heavy (torch above all) is imported where it is used, so that `artv --help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .files.terminal import escape_unprintable
from .run.job import INTERRUPTED, Job, changed_settings, check_images, run_job, say, version

if TYPE_CHECKING:
    from .commands.comfyui_server import Host
    from .config import ARTVConfig
    from .method.generate import GenerateOptions
    from .run.pipeline import Pipeline, SavedLatents

STARTED = time.monotonic()
USER_ERROR = 2
MODEL_DEFAULTS = {
    "checkpoint": "tiny",
    "base": None,
    "device": "auto",
    "dtype": "float32",
    "compile": False,
    "fp8": False,
    "taesd": None,
    "graph": True,
}
MAX_BATCH = 256
MAX_SEED = 2**64 - 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run `artv` with these arguments (by default the process's own). Returns the exit code."""
    escape_unprintable()
    try:
        args = build_parser().parse_args(argv)
        return args.run(args)
    except SystemExit as stop:  # argparse, after --help
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        say("stopped")
        return INTERRUPTED
    except (ValueError, OSError) as error:
        say(str(error) or type(error).__name__)
    except (MemoryError, RuntimeError, TypeError) as error:
        say(_device_fault(error))
    return USER_ERROR


def _device_fault(error: Exception) -> str:
    """What a device lacks, in one line; any other error is raised again."""
    from .speed.device_limits import is_out_of_memory, lacking_ability

    if is_out_of_memory(error):
        return "out of memory; try a smaller size, a smaller batch, or --dtype bfloat16"
    lacking = lacking_ability(error)
    if not lacking:
        raise error
    return lacking


# Parsing


class _Parser(argparse.ArgumentParser):
    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.option_strings and arg_strings == ["--"]:  # Python before 3.13 makes an empty list of it
            raise argparse.ArgumentError(action, "expected one argument")
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} ({self.prog} --help lists what there is)")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; each command's function is in `run`."""
    parser = _Parser(
        prog="artv", description="ART-V: text to video, one frame at a time. First steps: artv demo", allow_abbrev=False
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_generate(commands)
    _add_journals(commands)
    _add_info(commands)
    _add_prepare(commands)
    _add_train(commands)
    _add_bench(commands)
    _add_evaluate(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, *_: Any) -> NoReturn:
        print("artv", version())
        raise SystemExit(0)


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="make three clips and a contact sheet with the shipped checkpoint",
        description="Makes a text-to-video, an image-to-video and a several-prompt clip, and a contact sheet of them: "
        "by the shipped workflows in ComfyUI where there is one, else by itself.",
        allow_abbrev=False,
    )
    parser.add_argument("--output", type=Path, default=Path("artv-demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--comfyui",
        type=Path,
        metavar="DIR",
        help="the ComfyUI to use; default: $COMFYUI_PATH, the one this stands in, or ~/comfy/ComfyUI",
    )
    parser.add_argument("--no-comfyui", action="store_true", help="do without ComfyUI")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    _add_model_options(parser)
    parser.set_defaults(run=run_demo)


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser(
        "generate",
        help="make a video from text, or from text and an image",
        description="Makes a video. Settings that are not given are those that the checkpoint recommends.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="what is to be seen; (words:1.3) count more or less"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.mp4", help="the video to write")
    for add in (
        _add_input_options,
        _add_sampling_options,
        _add_speed_options,
        _add_output_options,
        _add_journal_options,
        _add_model_options,
    ):
        add(parser)
    parser.set_defaults(run=run_generate)


def _add_input_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to show")
    group.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="several prompts, one a line, each for one segment of the checkpoint's length; or lines `24: prompt`, "
        'each with its first frame; `"24": "prompt"` and `[0s-3s: prompt]` will do too',
    )
    group.add_argument("--negative", metavar="TEXT", help="what is not to be seen")
    group.add_argument(
        "--image",
        type=Path,
        metavar="PNG",
        help="frame 0; scaled to cover the video's size, then cropped at its centre",
    )
    group.add_argument(
        "--continue-from", type=Path, metavar="F", help="go on from the frames --save-latents wrote, or a journal holds"
    )
    group.add_argument(
        "--anchor",
        choices=("segment", "first", "rolling", "none"),
        help="the frame that holds the scene together: the last one of the prompt before (segment, the default), "
        "frame 0 (first), the one 10 frames back (rolling)",
    )
    group.add_argument("--anchor-image", type=Path, metavar="PNG", help="an image as the anchor, instead of --anchor")


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to make it")
    group.add_argument(
        "--frames", type=int, metavar="N", help="length of the video, given frames included; 0: until stopped"
    )
    group.add_argument("--seed", type=int, help="default: 0, or that of the frames to go on from")
    group.add_argument("--batch", type=int, metavar="N", help="N videos, with seeds counting up (OUT-0.mp4, OUT-1.mp4)")
    group.add_argument("--width", type=int, metavar="W", help="pixels")
    group.add_argument("--height", type=int, metavar="H", help="pixels")
    group.add_argument("--steps", type=int, metavar="S", help="denoising steps for each frame")
    group.add_argument("--sampler", metavar="NAME", help="euler, euler_ancestral, dpmpp_2m, dpmpp_2s_ancestral or ddim")
    group.add_argument("--cfg-references", type=float, metavar="X", help="guidance by the last frames")
    group.add_argument("--cfg-anchor", type=float, metavar="X", help="guidance by the anchor")
    group.add_argument("--cfg-text", type=float, metavar="X", help="guidance by the text")
    group.add_argument("--cfg-first", type=float, metavar="X", help="guidance by the text where no frame came before")
    group.add_argument("--noise-level", type=int, metavar="N", help="noise augmentation of references and anchor")
    group.add_argument("--no-mask", action="store_true", help="do without the mask network")
    group.add_argument(
        "--redo",
        action="append",
        default=[],
        metavar="K:SEED",
        help="from frame K on, go by another seed; the frames before it come from the journal, if one holds them",
    )
    group.add_argument(
        "--adain",
        type=float,
        default=0.0,
        metavar="X",
        help="against drift: pull each frame's statistics toward the anchor's, 0 (off, the default) to 1",
    )


def _add_speed_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "speed and memory", "All off by default; all but --compile and --no-graph cost some quality."
    )
    group.add_argument(
        "--compile", action="store_true", help="compile the networks: minutes the first time, then faster frames"
    )
    group.add_argument(
        "--no-graph",
        dest="graph",
        action="store_false",
        help="on a GPU, launch every kernel by itself instead of replaying CUDA graphs: same frames, but slower",
    )
    group.add_argument("--fp8", action="store_true", help="keep weights as 8-bit floats: less memory, but slower")
    group.add_argument(
        "--taesd",
        type=Path,
        metavar="F",
        help="decode frames with TAESD (its public taesd_decoder.safetensors) instead of the checkpoint's VAE: faster",
    )
    group.add_argument(
        "--reuse-every",
        type=int,
        default=1,
        metavar="N",
        help="run whole networks in one of N evaluations, in the others their outermost blocks only",
    )
    group.add_argument(
        "--reuse-blocks", type=int, default=1, metavar="B", help="how many blocks that is; default: %(default)s"
    )
    group.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="guide only between these shares of the noise, 0 clean to 1 noise alone",
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to write")
    group.add_argument("--fps", type=float, metavar="F", help="frames per second; default: the training clips'")
    group.add_argument(
        "--upscale", type=int, default=1, metavar="N", help="write each pixel as NxN pixels, to watch small videos"
    )
    group.add_argument(
        "--stream", action="store_true", help="write the video so that it can be watched while it grows (OUT.part.mp4)"
    )
    group.add_argument("--mask-video", type=Path, metavar="F.mp4", help="a video of the copy masks (white: copied)")
    group.add_argument(
        "--drift",
        type=Path,
        metavar="F.csv",
        help="how far each frame is from the first: a row for each as it is made, at the end a plot (F.png)",
    )
    group.add_argument("--save-latents", type=Path, metavar="F.safetensors", help="frames to go on from later")


def _add_journal_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "journal",
        "Every finished frame is kept in a file, so that a run that was cut off goes on where it was when it is asked "
        "for again. By default so for videos of more than 32 frames, in the folder artv_journals beside the output.",
    )
    group.add_argument("--journal", type=Path, metavar="DIR", help="keep it in this folder, however short the video")
    group.add_argument("--no-journal", action="store_true", help="keep none")
    group.add_argument("--start-over", action="store_true", help="make all frames, whatever a journal holds")


def _add_journals(commands: Any) -> None:
    parser = commands.add_parser(
        "journals",
        help="list the journals of a folder, or remove some",
        description="What journals there are, how large, and of what; with --remove, those named are gone.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("artv_journals"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--remove", nargs="+", default=[], metavar="NAME", help="remove these, by name as listed")
    parser.set_defaults(run=run_journals)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--checkpoint", metavar="F", help="a file, or the shipped tiny (default)")
    group.add_argument("--base", type=Path, metavar="F", help="the file with the parts that the checkpoint lacks")
    group.add_argument("--device", metavar="D", help="auto (default), cpu, cuda, cuda:0 or mps")
    group.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float32")
    parser.set_defaults(**MODEL_DEFAULTS)


def _add_info(commands: Any) -> None:
    parser = commands.add_parser(
        "info",
        help="what a checkpoint holds",
        description="Configuration, parameters of each network, and what is missing for which use.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", nargs="?", default="tiny", metavar="CHECKPOINT", help="default: the shipped tiny")
    parser.set_defaults(run=run_info)


def _add_bench(commands: Any) -> None:
    from .commands.bench import add_arguments, run_bench

    parser = commands.add_parser(
        "bench",
        help="measure how fast this machine makes frames",
        description="Time to the first frame, frames per second and peak memory on this machine, by size and way of "
        "sampling.",
        allow_abbrev=False,
    )
    add_arguments(parser)
    _add_model_options(parser)
    parser.set_defaults(run=run_bench)


def _add_evaluate(commands: Any) -> None:
    from .evaluation.options import add_arguments, from_arguments

    def run(args: argparse.Namespace) -> int:
        options = from_arguments(args)
        _check_installed("accelerate", "torchmetrics", "torch_fidelity", extra="evaluate")
        from .evaluation.evaluate import evaluate_videos

        return evaluate_videos(options, load_pipeline)

    parser = commands.add_parser(
        "evaluate",
        help="judge videos: FVD, FID, IS, CLIPSIM, drift",
        description="Judges a folder of videos, or makes them first from a checkpoint and prompts. Features are kept, "
        "so that a run that was stopped goes on when it is asked for again; several processes share the work under "
        "accelerate launch.",
        allow_abbrev=False,
    )
    add_arguments(parser)
    _add_model_options(parser)
    parser.set_defaults(run=run)


def _check_installed(*packages: str, extra: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} is not installed; pip install 'comfyui-artv[{extra}]'")


def _add_prepare(commands: Any) -> None:
    from .prepare.options import add_arguments, from_arguments

    def run(args: argparse.Namespace) -> int:
        options = from_arguments(args)
        from .prepare.run import prepare

        return prepare(options)

    parser = commands.add_parser(
        "prepare",
        help="make clips ready to train on: cleaned, and as latents in shards",
        description="Cleans captioned clips as the paper does (motion score, CLIP score) and keeps their latents and "
        "text embeddings in shards. A run that was stopped goes on when it is asked for again. Values are ours: the "
        "paper names none.",
        allow_abbrev=False,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def _add_train(commands: Any) -> None:
    from .training.command import add_options, run_train

    def run(args: argparse.Namespace) -> int:
        _check_installed("accelerate", "pytorch_optimizer", "webdataset", extra="train")
        return run_train(args, "artv train", STARTED)

    parser = commands.add_parser(
        "train",
        help="train on your own clips, or on clips that are made on the fly",
        description="Trains from a TOML configuration, as `python train.py` does. A stopped run goes on with --resume.",
        allow_abbrev=False,
    )
    add_options(parser)
    parser.set_defaults(run=run)


# artv generate


def run_generate(args: argparse.Namespace) -> int:
    """Everything that can be wrong is found before the weights are loaded, as far as it can be known without them."""
    from .checkpoint import describe_checkpoint, resolve_checkpoint
    from .run.outputs import check_outputs, output_paths

    path = resolve_checkpoint(args.checkpoint)
    job = generate_job(args, describe_checkpoint(path).config)
    check_images(job)
    check_outputs(job)
    pipeline = load_pipeline(args)
    warn_of_words(pipeline, [text for _, text in job.prompts] + ([job.negative] if job.negative else []))
    written = run_job(pipeline, job)
    if written:
        _print_paths(output_paths(job))
    return 0 if written >= job.options.num_frames else INTERRUPTED


def generate_job(args: argparse.Namespace, config: ARTVConfig) -> Job:
    """Arguments to a job. Raises ValueError, one line, on whatever cannot be done."""
    prompts = _prompts(args, config)
    saved = _saved_frames(args)
    num_given = len(saved.latents) if saved else int(args.image is not None)
    # One segment for each prompt, and one more than there is to go on from.
    usual = max(prompts[-1][0], len(saved.latents) if saved else 0) + config.segment_frames
    options = _options(args, config, saved, usual)
    if 0 < options.num_frames <= num_given:
        raise ValueError(f"--frames is {options.num_frames}, which counts the {num_given} given; give a larger number")
    beyond = [start for start, _ in prompts if 0 < options.num_frames <= start]
    if beyond:
        say(f"warning: the video ends before frame {beyond[0]}, where a prompt starts; {len(beyond)} left out")
    if args.anchor and args.anchor_image:
        raise ValueError("--anchor and --anchor-image exclude each other")
    if options.num_frames == 0 and args.save_latents:
        raise ValueError(
            "--frames 0 and --save-latents exclude each other: it would keep all frames in memory; the "
            "journal holds them, and --continue-from reads it"
        )
    job = Job(
        prompts=prompts,
        options=options,
        videos=_numbered(args.output, options.batch_size),
        masks=_numbered(args.mask_video, options.batch_size) if args.mask_video else (),
        latents=args.save_latents,
        drift=_numbered(args.drift, options.batch_size) if args.drift else (),
        fps=config.fps if args.fps is None else args.fps,
        upscale=args.upscale,
        image=args.image,
        given=saved.latents if saved else None,
        negative=args.negative,
        anchor="given" if args.anchor_image else args.anchor or "segment",
        anchor_image=args.anchor_image,
        checkpoint=config.name,
        journal=_journal_folder(args, options.num_frames),
        start_over=args.start_over,
        stream=args.stream or options.num_frames == 0,
    )
    changes = changed_settings(job, saved.made_with) if saved else []
    if changes:
        say(f"warning: this does not go on as one run would have: {'; '.join(changes)}")
    return job


def _journal_folder(args: argparse.Namespace, num_frames: int) -> Path | None:
    from .run.journal_folder import FOLDER
    from .run.recording import wants_journal

    if args.no_journal and (args.journal or args.start_over):
        raise ValueError(f"--no-journal and {'--journal' if args.journal else '--start-over'} exclude each other")
    if args.journal is not None:
        return args.journal
    return args.output.parent / FOLDER if wants_journal(num_frames) and not args.no_journal else None


def _prompts(args: argparse.Namespace, config: ARTVConfig) -> list[tuple[int, str]]:
    from .prompts.prompt_file import read_prompt_file

    if (args.prompt is None) == (args.prompts is None):
        raise ValueError("give either a PROMPT or --prompts FILE")
    if args.prompts is not None:
        return [(start, text) for start, text in read_prompt_file(args.prompts, config.segment_frames, config.fps)]
    if not args.prompt.strip():
        raise ValueError("the prompt is empty; say what is to be seen")
    return [(0, args.prompt)]


def _saved_frames(args: argparse.Namespace) -> SavedLatents | None:
    from .run.journal_file import SUFFIX
    from .run.pipeline import load_journal, load_latents

    if args.continue_from is None:
        return None
    if args.image is not None:
        raise ValueError("--image and --continue-from exclude each other: the image would be frame 0")
    is_journal = args.continue_from.suffix == SUFFIX
    saved = load_journal(args.continue_from) if is_journal else load_latents(args.continue_from)
    if args.batch not in (None, saved.latents.shape[1]):
        raise ValueError(f"--batch is {args.batch}, but {args.continue_from} holds {saved.latents.shape[1]} videos")
    return saved


def _options(
    args: argparse.Namespace, config: ARTVConfig, saved: SavedLatents | None, usual_frames: int
) -> GenerateOptions:
    from .method.generate import GenerateOptions
    from .run.pipeline import like_saved
    from .run.recording import parse_redo

    seed = args.seed if args.seed is not None else saved.seed if saved else 0
    batch = 1 if args.batch is None else args.batch
    if args.frames is not None and args.frames < 0:
        raise ValueError(f"--frames is {args.frames}; give 1 or more, or 0 to go on until stopped")
    if not 1 <= batch <= MAX_BATCH:
        raise ValueError(f"--batch is {batch}; accepted are 1 to {MAX_BATCH}")
    options = GenerateOptions(
        num_frames=usual_frames if args.frames is None else args.frames,
        height=args.height,
        width=args.width,
        seed=seed,
        batch_size=batch,
        steps=args.steps,
        sampler=args.sampler,
        guidance_references=args.cfg_references,
        guidance_anchor=args.cfg_anchor,
        guidance_text=args.cfg_text,
        first_frame_guidance=args.cfg_first,
        reference_noise_level=args.noise_level,
        anchor_noise_level=args.noise_level,
        use_mask=not args.no_mask,
        redo=parse_redo("\n".join(args.redo)),
        adain_strength=args.adain,
        reuse_every=args.reuse_every,
        reuse_blocks=args.reuse_blocks,
        guidance_interval=tuple(args.guidance_interval),
    )
    if saved:
        options = like_saved(options, saved, config.vae.factor)
    _check_seed(seed, options.batch_size)
    return options.resolved(config)


def _check_seed(seed: int, batch: int) -> None:
    if not 0 <= seed <= MAX_SEED + 1 - batch:
        raise ValueError(f"--seed is {seed}; accepted are 0 to {MAX_SEED + 1 - batch}")


def _numbered(path: Path, count: int) -> list[Path]:
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(count)]


def load_pipeline(args: argparse.Namespace) -> Pipeline:
    """The model that the arguments name. Raises ValueError, one line, for a device or a file that will not do."""
    import torch

    from .run.pipeline import Pipeline, pick_device

    device = pick_device(args.device)
    _warn_of_base(args)
    return Pipeline.from_checkpoint(
        args.checkpoint,
        base=args.base,
        device=device,
        dtype=getattr(torch, args.dtype),
        compiled=args.compile,
        fp8=args.fp8,
        taesd=args.taesd,
        graph=args.graph,
    )


def _warn_of_base(args: argparse.Namespace) -> None:
    from .checkpoint import describe_checkpoint, prediction_warning, resolve_checkpoint

    if not args.base:
        return
    summary = describe_checkpoint(resolve_checkpoint(args.checkpoint))
    warning = None if "unet" in summary.parts else prediction_warning(args.base, summary.config)
    if warning:
        say(f"warning: {warning}")


def warn_of_words(pipeline: Pipeline, texts: Sequence[str]) -> None:
    """One line on stderr for each text that is too long, and one for all words that the checkpoint never saw."""
    from .models.prompt_weights import without_weights

    encoder, vocabulary = pipeline.model.text, pipeline.model.config.vocabulary
    if encoder is None:
        return
    texts = [without_weights(text) for text in texts]
    for text in texts:
        lost = encoder.lost_words(text)
        if lost:
            say(f"warning: the prompt is longer than the text encoder reads; these words are lost: {' '.join(lost)}")
    unknown = dict.fromkeys(word for text in texts for word in encoder.unknown_words(text, vocabulary))
    if unknown:
        say(f"warning: the checkpoint never saw: {', '.join(unknown)}; it knows: {', '.join(vocabulary)}")


def _print_paths(paths: Sequence[Path]) -> None:
    for path in paths:
        print(path)


# artv journals


def run_journals(args: argparse.Namespace) -> int:
    """A list of what is there, after what was to be removed is gone."""
    from .run.journal_list import journal_table, list_journals, remove_journal

    if not args.folder.is_dir():
        raise ValueError(f"there is no folder {args.folder}; name the one that holds the journals")
    paths = {journal.path.name: journal.path for journal in list_journals(args.folder)}
    unknown = [name for name in args.remove if name not in paths]
    if unknown:
        raise ValueError(f"there is no journal {unknown[0]!r} in {args.folder}; it holds: {', '.join(paths) or 'none'}")
    for name in dict.fromkeys(args.remove):
        remove_journal(paths[name])
    print(journal_table(list_journals(args.folder)))
    return 0


# artv demo


def run_demo(args: argparse.Namespace) -> int:
    """Three clips and a contact sheet in the output folder."""
    _check_seed(args.seed, 1)
    if args.comfyui is not None and args.no_comfyui:
        raise ValueError("--comfyui and --no-comfyui exclude each other")
    host = None if args.no_comfyui else _demo_host(args)
    _make_folder(args.output)
    started = time.monotonic()
    if host is None:
        made = _demo_by_core(args)
    else:
        from .commands.demo_comfyui import run_workflows

        say(f"using ComfyUI {host.version} in {host.root}")
        made = run_workflows(host, args.output, args.seed)
    if not made:
        return INTERRUPTED
    print(f"made in {time.monotonic() - started:.0f} seconds:", file=sys.stderr)
    _print_paths(made)
    return 0


def _demo_host(args: argparse.Namespace) -> Host | None:
    """The ComfyUI that can run the demo, or None after a line that says why not. ValueError where one was asked for."""
    from .commands.comfyui_server import find_host
    from .commands.demo_comfyui import obstacle

    own = [name for name in ("checkpoint", "base", "device", "dtype") if getattr(args, name) != MODEL_DEFAULTS[name]]
    if own and args.comfyui is None:
        return None  # the workflows run the shipped checkpoint as the host sees fit
    if own:
        raise ValueError(f"--comfyui and --{own[0]} exclude each other: the workflows say which checkpoint is used")
    host = find_host(args.comfyui)
    if host is None:
        say("no ComfyUI found, so the core does the work; to get one: pip install comfy-cli, then comfy install")
        return None
    reason = obstacle(host)
    if reason and args.comfyui is not None:
        raise ValueError(f"cannot use the ComfyUI in {host.root}: {reason}")
    if reason:
        say(f"not using the ComfyUI in {host.root}: {reason}")
    return None if reason else host


def _demo_by_core(args: argparse.Namespace) -> list[Path]:
    """What was made; nothing where it was stopped."""
    from .checkpoint import describe_checkpoint, resolve_checkpoint
    from .commands.demo import demo_reels, write_sheet
    from .files.partial_file import check_writable
    from .run.outputs import check_outputs

    config = describe_checkpoint(resolve_checkpoint(args.checkpoint)).config
    sheet = args.output / "contact-sheet.png"
    check_writable(sheet)
    reels = demo_reels(config, args.output, args.seed)
    for reel in reels:
        check_outputs(reel.job)
    pipeline = load_pipeline(args)
    for reel in reels:
        warn_of_words(pipeline, [text for _, text in reel.job.prompts])
        if run_job(pipeline, reel.job, f"{reel.title}: ", reel.take) < reel.job.options.num_frames:
            return []
    write_sheet(reels, sheet)
    return [*(path for reel in reels for path in reel.job.videos), sheet]


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {path}: {(error.strerror or str(error)).lower()}") from None


# artv info


def run_info(args: argparse.Namespace) -> int:
    """What the file's header says; no weights are read."""
    from .checkpoint import describe_checkpoint, resolve_checkpoint
    from .checkpoint.info import info_lines

    print("\n".join(info_lines(describe_checkpoint(resolve_checkpoint(args.checkpoint)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`artv demo`: three clips and a contact sheet, made by ComfyUI with the shipped workflows, or without ComfyUI."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.terminal import INTERRUPTED, say
from .options import MODEL_DEFAULTS, add_model_options, check_seed, load_pipeline, print_paths, warn_of_words

if TYPE_CHECKING:
    from .comfyui_server import Host


def add_command(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "demo",
        help="make three clips and a contact sheet with the shipped checkpoint",
        description="Makes three clips (from text, from an image, from several prompts) and a contact "
        "sheet. Uses the shipped workflows if it finds a ComfyUI, else works without one. For a ComfyUI, ARTV must be "
        "installed with its nodes: pip install -e .",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--output", type=Path, default=Path("artv-demo"), metavar="DIR", help="folder to write to; default: %(default)s"
    )
    parser.add_argument(
        "--comfyui",
        type=Path,
        metavar="DIR",
        help="the ComfyUI to use; default: $COMFYUI_PATH, a ComfyUI folder that contains this one, or ~/comfy/ComfyUI",
    )
    parser.add_argument("--no-comfyui", action="store_true", help="do not use ComfyUI")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    add_model_options(parser)
    parser.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace) -> int:
    """Make three clips and a contact sheet in the output folder."""
    check_seed(args.seed, 1)
    if args.comfyui is not None and args.no_comfyui:
        raise ValueError("--comfyui and --no-comfyui cannot be used together")
    host = None if args.no_comfyui else _demo_host(args)
    _make_folder(args.output)
    started = time.monotonic()
    if host is None:
        made = _demo_by_core(args)
    else:
        from .demo_comfyui import run_workflows

        say(f"using ComfyUI {host.version} in {host.root}")
        made = run_workflows(host, args.output, args.seed)
    if not made:
        return INTERRUPTED
    print(f"made in {time.monotonic() - started:.0f} seconds:", file=sys.stderr)
    print_paths(made)
    return 0


def _demo_host(args: argparse.Namespace) -> Host | None:
    """The ComfyUI that can run the demo, or None. Prints why it is None, unless an option such as --checkpoint rules
    ComfyUI out. Raises ValueError if the user asked for ComfyUI."""
    from .comfyui_server import find_host
    from .demo_comfyui import has_nodes, obstacle

    own = [name for name in ("checkpoint", "base", "device", "dtype") if getattr(args, name) != MODEL_DEFAULTS[name]]
    if own and args.comfyui is None:
        return None  # these options do not apply to the workflows
    if own:
        raise ValueError(
            f"--comfyui and --{own[0]} cannot be used together: the workflows say which checkpoint is used, and "
            "ComfyUI chooses device and precision; leave one out"
        )
    host = find_host(args.comfyui)
    if host is None:
        advice = "; to get ComfyUI: pip install comfy-cli, then comfy install" if has_nodes() else ""
        say(f"no ComfyUI found, so artv makes the clips itself{advice}")
        return None
    reason = obstacle(host)
    if reason and args.comfyui is not None:
        raise ValueError(f"cannot use the ComfyUI in {host.root}: {reason}")
    if reason:
        say(f"not using the ComfyUI in {host.root}: {reason}")
    return None if reason else host


def _demo_by_core(args: argparse.Namespace) -> list[Path]:
    """The paths of what was made; empty if it was stopped."""
    from ..checkpoint import describe_checkpoint, resolve_checkpoint
    from ..files.partial_file import check_writable
    from ..run.execute import run_job
    from ..run.outputs import check_outputs
    from .demo_clips import demo_reels, write_sheet

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

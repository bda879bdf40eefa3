"""The training command, as `python train.py` and as `artv train`. Slow imports are made inside the functions."""

import argparse
import sys

from ..files.installed import check_installed
from ..files.terminal import INTERRUPTED, USER_ERROR


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to the parser."""
    parser.add_argument("--config", required=True, help="TOML file; the shipped ones are in configs/")
    parser.add_argument("--output", default="runs", help="folder for the run's state, sheets and logs (default: runs)")
    parser.add_argument("--resume", action="store_true", help="continue from the last saved state of this run")
    parser.add_argument(
        "--minutes",
        type=float,
        help="stop this many minutes after the command started, with a checkpoint of the weights "
        "so far; the same command with --resume continues",
    )
    parser.add_argument(
        "--base",
        help="Stable Diffusion checkpoint with the VAE and the text encoder, and for sd21 and sd15 the UNet (in the "
        "configuration: base)",
    )
    parser.add_argument("--data", help="clips to train on (in the configuration: data.path)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="NAME=VALUE",
        help="set a value of the configuration, e.g. diffusion.steps=2000; can be repeated",
    )
    parser.add_argument(
        "--stages",
        default="",
        help="comma-separated stages to run: vae, latents, decoder, diffusion, distill, export (default: all that the "
        "configuration has)",
    )


def run_train(args: argparse.Namespace, program: str, started: float) -> int:
    """Read the configuration and train. `started` is `time.monotonic()` when the command began. Returns the exit code;
    after a user's error it prints one line and returns 2, and after Ctrl-C 130."""
    try:
        return _train(args, program, started)
    except KeyboardInterrupt:  # before the first step, or the second one
        print(f"{program}: stopped", file=sys.stderr)
        return INTERRUPTED


def _train(args: argparse.Namespace, program: str, started: float) -> int:
    from safetensors import SafetensorError

    from ..files.user_errors import Remedy, UserError
    from ..speed.device_limits import is_out_of_memory, lacking_ability
    from .config import as_string, read_config
    from .stopping import TimeLimit

    paths = {"base": args.base, "data.path": args.data}
    changes = [f"{name}={as_string(value)}" for name, value in paths.items() if value]
    try:
        check_installed("accelerate", "pytorch_optimizer", "webdataset", extra="train")
        config = read_config(args.config, [*changes, *args.changes])
        limit = None if args.minutes is None else TimeLimit(args.minutes, started)
        from .run import run

        run(config, args.output, [stage for stage in args.stages.split(",") if stage], args.resume, limit)
    except UserError as error:
        print(f"{program}: {error.phrased({Remedy.BASE: 'name a base checkpoint with --base'})}", file=sys.stderr)
        return USER_ERROR
    except (ValueError, OSError, SafetensorError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return USER_ERROR
    except (MemoryError, RuntimeError, TypeError) as error:
        no_room = "out of memory; set a smaller micro_batch, or train fewer parts" * is_out_of_memory(error)
        if not (no_room or lacking_ability(error)):
            raise
        print(f"{program}: {no_room or lacking_ability(error)}", file=sys.stderr)
        return USER_ERROR
    return 0

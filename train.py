"""Train ARTV: `python train.py --config configs/tiny.toml [--resume]`, or `accelerate launch train.py --config ...` on
several devices and machines. Everything else is in `artv_core.training`."""

import argparse
import sys
import time

STARTED = time.monotonic()

from safetensors import SafetensorError  # noqa: E402

from artv_core.terminal import escape_unprintable  # noqa: E402
from artv_core.training.config import read_config  # noqa: E402
from artv_core.training.stopping import TimeLimit  # noqa: E402


def main() -> int:
    """Parse, read the configuration, train. Exit code 2 and one line for a user's error."""
    escape_unprintable()
    parser = argparse.ArgumentParser(description="Train ARTV from a TOML configuration.")
    parser.add_argument("--config", required=True, help="TOML file; the shipped ones are in configs/")
    parser.add_argument("--output", default="runs", help="folder for the run's state, sheets and logs (default: runs)")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state of this run")
    parser.add_argument(
        "--minutes",
        type=float,
        help="stop this many minutes after the command began, with a checkpoint of what is learnt so far; "
        "the same command with --resume goes on",
    )
    parser.add_argument("--base", help="checkpoint that training begins with (in the configuration: base)")
    parser.add_argument("--data", help="clips to train on (in the configuration: data.path)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="NAME=VALUE",
        help="any other value in the place of the configuration's, e.g. diffusion.steps=2000; can be repeated",
    )
    parser.add_argument(
        "--stages",
        default="",
        help="comma-separated stages, of those that the run has (default: all)",
    )
    args = parser.parse_args()
    changes = [f"{name}={value}" for name, value in (("base", args.base), ("data.path", args.data)) if value]
    try:
        config = read_config(args.config, [*changes, *args.changes])
        limit = None if args.minutes is None else TimeLimit(args.minutes, STARTED)
        from artv_core.training.run import run

        run(config, args.output, [stage for stage in args.stages.split(",") if stage], args.resume, limit)
    except (ValueError, OSError, SafetensorError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError, TypeError) as error:
        from artv_core.abilities import is_out_of_memory, lacking_ability

        no_room = "out of memory; set a smaller micro_batch, or train fewer parts" * is_out_of_memory(error)
        if not (no_room or lacking_ability(error)):
            raise
        print(f"train.py: {no_room or lacking_ability(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

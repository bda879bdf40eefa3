"""Train ARTV: `python train.py --config configs/tiny.toml [--resume]`. Everything else is in `artv_core.training`."""

import argparse
import sys

from safetensors import SafetensorError

from artv_core.training.config import read_config


def main() -> int:
    """Parse, read the configuration, train. Exit code 2 and one line for a user's error."""
    parser = argparse.ArgumentParser(description="Train ARTV from a TOML configuration.")
    parser.add_argument("--config", required=True, help="TOML file; the shipped ones are in configs/")
    parser.add_argument("--output", default="runs", help="folder for the run's state, sheets and logs (default: runs)")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state of this run")
    parser.add_argument(
        "--stages",
        default="vae,latents,decoder,rollouts,diffusion,export",
        help="comma-separated stages, in this order (default: all; rollouts are made where they have a share)",
    )
    args = parser.parse_args()
    try:
        config = read_config(args.config)
        from artv_core.training.run import run

        run(config, args.output, args.stages.split(","), resume=args.resume)
    except (ValueError, OSError, SafetensorError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

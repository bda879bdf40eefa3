"""`artv evaluate`: measures the quality of videos."""

import argparse
from typing import Any

from ..files.installed import check_installed
from .options import add_model_options, load_pipeline


def add_command(commands: Any) -> None:
    """Add the command and its options."""
    from ..evaluation.options import add_arguments, from_arguments

    def run(args: argparse.Namespace) -> int:
        options = from_arguments(args)
        check_installed("accelerate", "torchmetrics", "torch_fidelity", extra="evaluate")
        from ..evaluation.evaluate import evaluate_videos

        return evaluate_videos(options, load_pipeline)

    parser = commands.add_parser(
        "evaluate",
        help="judge videos: FVD, FID, IS, CLIPSIM, drift",
        description="Judges a folder of videos, or first makes them from a checkpoint and prompts. "
        "Features are kept, so a stopped run continues with the same command. With "
        "accelerate launch, several processes share the work.",
        allow_abbrev=False,
    )
    add_arguments(parser)
    add_model_options(parser)
    parser.set_defaults(run=run)

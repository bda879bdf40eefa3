"""`artv evaluate`: videos judged by numbers."""

import argparse
from typing import Any

from .options import add_model_options, check_installed, load_pipeline


def add_command(commands: Any) -> None:
    """The command and what it takes."""
    from ..evaluation.options import add_arguments, from_arguments

    def run(args: argparse.Namespace) -> int:
        options = from_arguments(args)
        check_installed("accelerate", "torchmetrics", "torch_fidelity", extra="evaluate")
        from ..evaluation.evaluate import evaluate_videos

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
    add_model_options(parser)
    parser.set_defaults(run=run)

"""`artv prepare`: prepares clips for training."""

import argparse
from typing import Any


def add_command(commands: Any) -> None:
    """Add the command and its options."""
    from ..prepare.options import add_arguments, from_arguments

    def run(args: argparse.Namespace) -> int:
        options = from_arguments(args)
        from ..prepare.run import prepare

        return prepare(options)

    parser = commands.add_parser(
        "prepare",
        help="prepare your clips for training: select good ones and encode them",
        description="Selects captioned clips as the paper does (by motion score and CLIP score). Stores their latents "
        "and text embeddings in shards. After a stop, run the same command to continue. The default values "
        "are not from the paper, which gives none.",
        allow_abbrev=False,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)

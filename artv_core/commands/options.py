"""What several commands share: the model's options, loading the model, and warnings about prompts.

Slow imports (above all torch) are made inside the functions, so that `artv --help` answers at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.terminal import say

if TYPE_CHECKING:
    from ..run.pipeline import Pipeline

MOST_WORDS = 40
"""A warning lists the words that a model knows if they are no more than this."""

MODEL_DEFAULTS = {
    "checkpoint": None,
    "base": None,
    "device": "auto",
    "dtype": "float32",
    "compile": False,
    "fp8": False,
    "taesd": None,
    "graph": True,
}


SHIPPED = "small (default), small-fast, tiny or tiny-fast"


def add_model_options(parser: argparse.ArgumentParser, checkpoint: str = SHIPPED) -> None:
    """Add the options for the networks and the device. `checkpoint` names the shipped checkpoints in the help."""
    group = parser.add_argument_group("model")
    group.add_argument("--checkpoint", metavar="F", help=f"a file, or a shipped checkpoint: {checkpoint}")
    group.add_argument(
        "--base",
        type=_base,
        metavar="F",
        help="the file with the parts that the checkpoint lacks: a Stable Diffusion file or an ARTV checkpoint",
    )
    group.add_argument("--device", metavar="D", help="auto (default), cpu, cuda, cuda:0 or mps")
    group.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float32")
    parser.set_defaults(**MODEL_DEFAULTS)


def _base(name_or_path: str) -> Path:
    """A path, or that of a shipped checkpoint if there is no such file."""
    from ..checkpoint.shipped import shipped_checkpoint, shipped_names

    path = Path(name_or_path)
    return shipped_checkpoint(name_or_path) if name_or_path in shipped_names() and not path.is_file() else path


def check_seed(seed: int, batch: int) -> None:
    """Raises ValueError unless the seeds of all videos of the batch are valid."""
    from ..method.options import MAX_SEED

    if not 0 <= seed <= MAX_SEED + 1 - batch:
        raise ValueError(f"--seed is {seed}; accepted are 0 to {MAX_SEED + 1 - batch}")


def load_pipeline(args: argparse.Namespace) -> Pipeline:
    """The model that the arguments name. Raises ValueError if the device or a file cannot be used."""
    import torch

    from ..run.pipeline import Pipeline, pick_device

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
    from ..checkpoint import describe_checkpoint, resolve_checkpoint
    from ..checkpoint.info import base_warning

    if args.base and (warning := base_warning(describe_checkpoint(resolve_checkpoint(args.checkpoint)), args.base)):
        say(f"warning: {warning}")


def warn_of_words(pipeline: Pipeline, texts: Sequence[str]) -> None:
    """Print a warning on stderr for each text that is too long, and one for all words that the checkpoint does not
    know."""
    from ..models.known_words import unknown_words, words_warning
    from ..models.prompt_weights import without_weights

    encoder, config = pipeline.model.text, pipeline.model.config
    if encoder is None:
        return
    for text in map(without_weights, texts):
        lost = encoder.lost_words(text)
        if lost:
            say(f"warning: the prompt is too long for the text encoder; these words are ignored: {' '.join(lost)}")
    unknown = unknown_words(texts, config.vocabulary)
    if unknown:
        say(f"warning: {words_warning(config.name, unknown)}; {_where_words_are(config.vocabulary)}")


def _where_words_are(vocabulary: Sequence[str]) -> str:
    few = len(vocabulary) <= MOST_WORDS
    return f"it knows: {', '.join(vocabulary)}" if few else "artv info lists the words it knows"


def print_paths(paths: Sequence[Path]) -> None:
    """Print paths on stdout, one on each line, for scripts."""
    for path in paths:
        print(path)

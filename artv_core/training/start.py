"""What the stage "diffusion" starts with: the networks, and the clips."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState

from ..checkpoint import (
    file_key,
    initialise_from_stable_diffusion,
    load_checkpoint,
    prediction_warning,
    read_part,
    resolve_checkpoint,
)
from ..checkpoint.info import parts_in
from ..config import ARTVConfig
from ..data.captions import CUT_CAPTIONS, cut_captions, note_cut_captions
from ..data.clips import BrokenClip, ClipSource
from ..data.order import ClipOrder, fitting_held_out, hold_out
from ..data.prepared import PreparedClips, fingerprint, is_prepared, open_prepared
from ..data.videos import open_videos
from ..files.tensor_file import open_tensor_file
from ..models.artv import ARTV, build_vae
from ..models.hollow import hollow
from ..models.network import FrameNetwork
from .config import FITTING, DiffusionStage, TrainConfig
from .diffusion import add_new_weights, forget_other_words, start_mask
from .samples import Clips
from .synthetic_clips import LatentClips, RandomOrder


def starting_model(config: TrainConfig) -> ARTV:
    """The networks before the first step: new ones completed from `base`, or those of `start_from`. A mask network to
    be trained is new if `start_from` has none.

    Raises ValueError if a file does not fit the configuration exactly.
    """
    torch.manual_seed(config.seed)
    if config.diffusion.start_from:
        return _going_on(config).train()
    from_base = bool(config.base) and config.model.vae.kind == "kl"
    model = ARTV(config.model, vae=not from_base)
    if from_base:  # drawing 84 million random weights that the base replaces takes a second
        with hollow():
            model.vae = build_vae(config.model.vae)
        model.vae.to_empty(device="cpu")
    start_mask(model, config.diffusion)
    if config.base:
        _fill(model, config)
    else:
        forget_other_words(model, config.vocabulary)
    add_new_weights(model, config.diffusion)
    return model.train()


def _going_on(config: TrainConfig) -> ARTV:
    path, train = resolve_checkpoint(config.diffusion.start_from), config.diffusion.train
    base = resolve_checkpoint(config.base) if config.base else None
    model = load_checkpoint(path, base=base, without=("lora",) if "lora" in train else ())
    if base:
        _warn_of_prediction(base, model)
    check_same(path, model.config, config.model, ("noise", "mask", "text", "vae", "schedule"), "leave out start_from")
    model.config = config.model
    if model.mask is None and config.model.mask is not None and "mask" in train:
        _say(f"note: {path} has no mask network; a new one is trained")
        model.mask = FrameNetwork(config.model.mask)
        start_mask(model, config.diffusion)
    add_new_weights(model, config.diffusion)
    _take_lora(model, path, config.diffusion)
    return model


def _take_lora(model: ARTV, path: Path, stage: DiffusionStage) -> None:
    """Go on with the low-rank changes in the file, if it has some. Raises ValueError if the run would lose them, or has
    another rank."""
    if "lora" not in parts_in(path) or "unet" in stage.train:  # else they are added to the UNet
        return
    if "lora" not in stage.train:
        raise ValueError(f"{path} has low-rank changes of the UNet, and the new file would lack them; train lora too")
    found, state = read_part(path, "lora"), model.state_dict()
    for name in (name for name in state if file_key(name) in found):
        tensor = found[file_key(name)]
        if tensor.shape != state[name].shape:
            rank = min(tensor.shape)
            raise ValueError(
                f"{path} has low-rank changes of rank {rank}, not {stage.lora_rank}; set lora_rank = {rank}"
            )
        state[name].copy_(tensor)


def _fill(model: ARTV, config: TrainConfig) -> None:
    """Load UNet, VAE and text encoder from a public Stable Diffusion file, or VAE and text encoder from an ARTV
    checkpoint. Prepared clips are latents already, so the VAE only draws sheets; without one there are no sheets."""
    path, needs_vae = resolve_checkpoint(config.base), not (config.data.path and is_prepared(config.data.path))
    is_public = "artv_config" not in open_tensor_file(path).metadata
    if not needs_vae and "vae" not in parts_in(path):
        model.vae = None
        _say(f"note: {path} has no VAE; the clips are prepared, so training continues, but without sample sheets")
    if is_public:
        initialise_from_stable_diffusion(model, path)
        _warn_of_prediction(path, model)
        return
    base = load_checkpoint(path, without=("mask",))
    check_same(path, base.config, model.config, ("vae", "text"), "name another base")
    if "unet" not in config.diffusion.train:
        raise ValueError(
            f"{path} is an ARTV checkpoint, and as a base gives no UNet; train the unet too, or set "
            "diffusion.start_from to it"
        )
    if (base.vae is None and needs_vae) or base.text is None:
        raise ValueError(f"{path} cannot be the base: it has no VAE or no text encoder; name one that has both")
    model.vae, model.text = base.vae, base.text
    model.null_context.copy_(base.null_context)


def _warn_of_prediction(path: Path, model: ARTV) -> None:
    warning = prediction_warning(path, model.config)
    if warning:
        _say(f"warning: {warning}")


def _say(line: str) -> None:
    if PartialState().is_main_process:
        print(line)


def check_same(path: Path, got: ARTVConfig, wanted: ARTVConfig, parts: Sequence[str], advice: str) -> None:
    """Raises ValueError if one of these parts of the configuration differs."""
    for part in parts:
        if getattr(got, part) != getattr(wanted, part):
            raise ValueError(f"{path} cannot start this run: its {part} is configured differently; {advice}")


def synthetic_clips(config: TrainConfig, clips: LatentClips) -> Clips:
    """The clips of the synthetic world. No clips are held out; the world holds out combinations instead."""
    every = np.arange(len(clips.index))
    _tell_unmeasured(config, every[:0])
    return Clips(clips, RandomOrder(len(every), config.diffusion.batch_size, config.seed), every, every[:0])


def open_clips(config: TrainConfig, model: ARTV, folder: Path) -> Clips:
    """The clips at `data.path`. Clips that cannot be read are listed in `folder/skipped.txt` and left out. The main
    process looks at them first; the others read what it found."""
    folder.mkdir(parents=True, exist_ok=True)
    with PartialState().main_process_first():
        source = _open(config, model, folder)
    data, stage = config.data, config.diffusion
    usable = _long_enough(source, config)
    total = len(usable)
    count = fitting_held_out(total) if data.held_out == FITTING else data.held_out
    trained_on, held_out = hold_out(source, count, config.seed, usable)
    PartialState().print(f"{total} clips: {len(trained_on)} to train on, {count} held out to measure with")
    _tell_unmeasured(config, held_out)
    order = ClipOrder(source.index, trained_on, stage.batch_size, config.seed, data.window)
    if PartialState().is_main_process:
        _tell_cut_captions(source, config, folder)
    return Clips(source, order, trained_on, held_out)


def _tell_unmeasured(config: TrainConfig, held_out: np.ndarray) -> None:
    every = config.diffusion.evaluate_every
    if every and not len(held_out):
        _say(f"note: no clips are held out, so evaluate_every = {every} measures nothing")


def _long_enough(source: ClipSource, config: TrainConfig) -> np.ndarray:
    """The ids of the clips that have `data.min_frames`. Only prepared clips can be shorter."""
    enough = source.index.num_frames >= config.data.min_frames
    if enough.all():
        return np.flatnonzero(enough)
    short = f"{np.sum(~enough)} of {len(enough)} prepared clips have fewer than {config.data.min_frames} frames"
    if not enough.any():
        raise ValueError(f"{short} (data.min_frames); prepare longer ones (artv prepare --min-frames)")
    _say(f"{short} (data.min_frames) and are left out")
    return np.flatnonzero(enough)


def _tell_cut_captions(source: ClipSource, config: TrainConfig, folder: Path) -> None:
    """Report captions that are cut. For prepared clips they were counted when the clips were prepared, except by early
    releases."""
    cut = source.manifest.get("captions_cut") if isinstance(source, PreparedClips) else None
    if isinstance(source, PreparedClips) and cut is not None:
        count = "1 caption is" if cut == 1 else f"{cut} captions are"
        warning = f"warning: {count} longer than the text encoder reads: {source.folder / CUT_CAPTIONS}" if cut else ""
    else:
        captions = ((source.name(clip), _caption(source, clip)) for clip in range(len(source.index)))
        text = config.model.text
        warning = note_cut_captions(cut_captions(captions, text), folder, text)
    if warning:
        print(warning)


def _caption(source: ClipSource, clip: int) -> str:
    """The caption, or "" for a broken clip; that is reported when its frames are read."""
    try:
        return source.caption(clip)
    except BrokenClip:
        return ""


def _open(config: TrainConfig, model: ARTV, folder: Path) -> ClipSource:
    path, data = Path(config.data.path), config.data
    if is_prepared(path):
        text = None if "text" in config.diffusion.train or model.text is None else fingerprint(model.text)
        vae = None if model.vae is None else fingerprint(model.vae)
        source = open_prepared(path, vae=vae, text=text)
        if source.fps != data.fps:
            raise ValueError(f"{path} was prepared at {source.fps:g} frames per second, not {data.fps:g}; set data.fps")
        _check_size(path, source.index.buckets, config.model.size)
        return source
    return _open_videos(config, folder)


def _check_size(path: Path, prepared: Sequence[tuple[int, int]], wanted: tuple[int, int]) -> None:
    """Raises ValueError if clips of this size would not be among those at `path`, all of about one area."""
    if wanted in prepared:
        return
    height, width = max(prepared, key=lambda size: (size[0] * size[1], min(size)))
    raise ValueError(
        f"{path} was prepared at {width}x{height}, and the training size is {wanted[1]}x{wanted[0]}; "
        f"prepare the clips again with --size {wanted[1]}x{wanted[0]}, or train at their size: "
        f"--set 'overrides.size=[{height},{width}]'"
    )


def _open_videos(config: TrainConfig, folder: Path) -> ClipSource:
    data = config.data
    videos, skipped = open_videos(
        config.data.path,
        fps=data.fps,
        size=config.model.size,
        multiple=data.bucket_multiple or config.model.vae.factor,
        cache=folder / "clips",
        bucketed=bool(data.bucket_multiple),
        min_frames=data.min_frames,
        workers=max(1, config.diffusion.workers),
    )
    if skipped.lines and PartialState().is_main_process:
        skipped.write(folder / "skipped.txt")
        print(f"{skipped.summary()} (all: {folder / 'skipped.txt'})")
    return videos

"""Prompts and images in, frames out: the glue between people's input and the spine (`generate.generate_frames`)."""

import contextlib
import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoint import load_checkpoint, load_taesd_decoder, resolve_checkpoint
from ..files.finite import NotFiniteError, is_finite
from ..files.tensor_file import open_tensor_file, write_tensor_file
from ..method.denoiser import Evaluate, evaluate
from ..method.frames import AnchorPolicy, Frame
from ..method.generate import MAX_SEED, GenerateOptions, StepCallback, as_batch
from ..method.text_track import TextSegment, TextTrack
from ..models.artv import ARTV
from ..models.attention import SelfAttention
from ..models.fused import fuse
from ..speed.compiled import Compiled, SideStream, one_behind
from ..speed.device_limits import check_storage
from ..speed.fp8_weights import store_fp8
from ..speed.graphs import Captured
from ..speed.packed_weights import can_pack, pack_weights
from .journal_file import JournalReader
from .recording import Recording, record_frames

TAESD_CHANNELS = 4

Prompt = str | Sequence[str]
"""One text for all videos of a batch, or one for each of them."""

Prompts = str | Sequence[tuple[int, Prompt]] | TextTrack
"""One prompt for all frames; or (start frame, prompt) pairs that begin at frame 0 and ascend; or encoded prompts."""


@dataclass(frozen=True)
class DecodedFrame:
    """A frame to look at: absolute index, image [B, 3, H, W] float32 in [0, 1], latent [B, C, h, w] float32 in the
    model's own scale, and the mean copy mask [B, 1, h, w] (1 = copied), None for frames that were given or had nothing
    to copy. Tensors are on the model's device."""

    index: int
    image: Tensor
    latent: Tensor
    mask: Tensor | None


class Pipeline:
    """A model made ready for texts and images. `Pipeline(model)` takes any `ARTV` module as it is; `evaluate` may be a
    faster one, such as `acceleration.Compiled()`, and `taesd` a decoder to look at frames with in place of the model's
    VAE (`load_taesd_decoder`): much faster, a little less true. Raises ValueError where that is for other latents."""

    def __init__(self, model: ARTV, evaluate: Evaluate = evaluate, taesd: nn.Module | None = None) -> None:
        self.model, self.evaluate, self.taesd = model, evaluate, taesd
        channels = model.config.vae.latent_channels
        if taesd is not None and channels != TAESD_CHANNELS:
            raise ValueError(f"TAESD decodes latents of {TAESD_CHANNELS} channels, this model's have {channels}")

    @classmethod
    def from_checkpoint(
        cls,
        name_or_path: str | Path = "tiny",
        *,
        base: str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
        fp8: bool = False,
        taesd: str | Path | None = None,
        graph: bool = True,
    ) -> "Pipeline":
        """From a checkpoint's path or shipped name, made ready as `make_pipeline` says. Raises ValueError, one line, as
        that and `load_checkpoint` do."""
        model = load_checkpoint(resolve_checkpoint(name_or_path), base=base, device=device, dtype=dtype)
        decoder = None if taesd is None else load_taesd_decoder(taesd, device, dtype)
        return make_pipeline(model, compiled=compiled, fp8=fp8, taesd=decoder, graph=graph)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.model.noise.parameters()).device

    def encode_prompts(self, prompts: Prompts) -> TextTrack:
        """Prompts to the text of each frame: contexts [L, D], or [B, L, D] where each video has a text of its own.
        Weights in them, as in `a (red:1.3) circle`, mean what they mean in ComfyUI (`prompt_weights`).

        Raises ValueError without a text encoder, on weights that cannot be, and unless starts begin at 0 and ascend.
        """
        if isinstance(prompts, TextTrack):
            return prompts
        pairs = [(0, prompts)] if isinstance(prompts, str) else prompts
        return TextTrack([TextSegment(start, self._encode_prompt(prompt)) for start, prompt in pairs])

    def encode_image(self, image: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] to latents [B, C, h, w] float32. Raises ValueError as `ARTV.encode_images`."""
        with torch.no_grad():
            return self.model.encode_images(image)

    def frames(
        self,
        prompts: Prompts,
        options: GenerateOptions,
        *,
        image: Tensor | None = None,
        given: Sequence[Tensor] | Tensor | None = None,
        negative: str | None = None,
        anchor: AnchorPolicy | None = None,
        on_step: StepCallback | None = None,
        recording: Recording | None = None,
    ) -> Generator[DecodedFrame, None, None]:
        """All frames of the video from frame 0 on, each as soon as it is made; given frames come first, decoded.

        `image` [1 or B, 3, H, W] in [0, 1] is frame 0; or `given` are the first frames' latents ([T, C, h, w] or
        [T, B, C, h, w]), from which the video goes on; with neither, frame 0 is made from text. With a `recording` each
        frame is kept in a journal, and those that one holds already are not made again. Raises ValueError, one line, on
        input that does not fit, before anything is sampled.
        """
        options = options.resolved(self.model.config)
        latents = list(given) if given is not None else []
        if image is not None and latents:
            raise ValueError("an image and given frames exclude each other: the image would be frame 0")
        if image is not None:
            latents = [self.encode_image(image)]
        latents = [as_batch(latent, options, self.model) for latent in latents]
        text, null = self.encode_prompts(prompts), None if negative is None else self._encode_prompt(negative)
        if self.taesd is None:
            self.model.require_vae()
        frames = record_frames(
            self.model,
            text,
            options,
            recording,
            negative=null,
            given=latents,
            anchor=anchor,
            on_step=on_step,
            evaluate=self.evaluate,
        )
        return self._decoded(frames)

    def _decoded(self, frames: Generator[Frame, None, None]) -> Generator[DecodedFrame, None, None]:
        # A generator, so that whoever stops early can close it, and with it the journal.
        with contextlib.closing(frames):
            if self.device.type != "cuda":
                yield from map(self.decode, frames)
                return
            side = SideStream(self.device)

            def begin(frame: Frame) -> DecodedFrame:
                with torch.no_grad():
                    image = side.begin(lambda: self._image(frame.latent), frame.latent)
                return DecodedFrame(frame.index, image, frame.latent, frame.mask)

            def finish(frame: DecodedFrame) -> DecodedFrame:
                side.finish(frame.image)
                return frame

            yield from one_behind(frames, begin, finish)

    def decode(self, frame: Frame) -> DecodedFrame:
        """The frame with its image. Raises ValueError without a VAE."""
        with torch.no_grad():
            return DecodedFrame(frame.index, self._image(frame.latent), frame.latent, frame.mask)

    def _image(self, latent: Tensor) -> Tensor:
        if self.taesd is None:
            return self.model.decode_latents(latent)
        weight = next(self.taesd.parameters())
        return self.taesd(latent.to(weight.device, weight.dtype)).float().clamp(0, 1)

    def _encode_prompt(self, prompt: Prompt) -> Tensor:
        # One at a time: a text's context must not depend, in its last bits, on what else was encoded with it.
        with torch.no_grad():
            if isinstance(prompt, str):
                return self.model.encode_weighted(prompt)
            return torch.stack([self.model.encode_weighted(text) for text in prompt])


def make_pipeline(
    model: ARTV,
    *,
    compiled: bool = False,
    fp8: bool = False,
    taesd: nn.Module | None = None,
    graph: bool = True,
) -> Pipeline:
    """A model in the form that is fastest to sample with: channels last, on the CPU with packed weights, on a GPU with
    fused layers and, with `graph`, replayed as CUDA graphs (`captured.Captured`). Not to train or to move, which packed
    weights do not allow. Changes the model.

    `compiled` is `acceleration.Compiled`, with weights that are not packed; `fp8` halves the networks' memory
    (`storage.store_fp8`) and costs some time and exactness. Raises ValueError where there is no compiler, and
    where the device has no 8-bit floats.
    """
    device, on_gpu = model.noise.device, model.noise.device.type == "cuda"
    if fp8:
        check_storage(device)
    model.to(memory_format=torch.channels_last)
    for network in filter(None, (model.noise, model.mask)):
        if fp8:
            store_fp8(network)
        elif not compiled and device.type == "cpu" and can_pack(network.dtype):
            pack_weights(network)
    if on_gpu:
        prepare_for_gpu(model)
    way = Compiled(device, graph=graph) if compiled else Captured(device) if graph and on_gpu else evaluate
    return Pipeline(model, way, taesd)


def prepare_for_gpu(model: ARTV) -> None:
    """Layers in fewer kernels where the GPU can: group norm with SiLU, gated GELU, self-attention's projections."""
    fuse(model, model.noise.device, model.noise.dtype)
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.join()


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one. Raises ValueError, one line, where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if kind not in present or (index and not index.isdecimal()):
        raise ValueError(f"unknown device {name!r}; accepted are auto, cpu, cuda, cuda:0 and mps")
    if int(index or 0) >= present[kind]:
        found = ", ".join(f"{kind} ({count})" for kind, count in present.items() if count)
        raise ValueError(f"device {name!r} is not there; this machine has: {found}")
    return torch.device(name)


def save_latents(path: str | Path, latents: Sequence[Tensor], seed: int, made_with: str = "") -> None:
    """Write frames' latents (each [B, C, h, w]) to one safetensors file, `latents` [T, B, C, h, w] float32, with the
    seed and `made_with` (settings, as text) in its metadata. Raises ValueError, one line, where that cannot be."""
    stacked = torch.stack([latent.detach().cpu().float() for latent in latents])
    for index, latent in enumerate(stacked):
        if not is_finite(latent):
            raise NotFiniteError(index)
    write_tensor_file(path, {"latents": stacked}, {"artv_latents": "1", "seed": str(seed), "made_with": made_with})


@dataclass(frozen=True)
class SavedLatents:
    """Frames to go on from: `latents` [T, B, C, h, w] float32, the seed and the settings they were made with."""

    latents: Tensor
    seed: int
    made_with: str = ""


def load_latents(path: str | Path) -> SavedLatents:
    """What `save_latents` wrote. Raises ValueError, one line, for anything else."""
    file = open_tensor_file(path)
    info = file.tensors.get("latents")
    seed, made_with = (file.metadata.get(name, "") for name in ("seed", "made_with"))
    largest = (1_000_000, 256, 64, 2048, 2048)  # frames, videos, channels, cells of 8 pixels
    sound = (
        info is not None
        and info.dtype == "F32"
        and len(info.shape) == len(largest)
        and all(1 <= size <= limit for size, limit in zip(info.shape, largest, strict=True))
        and len(made_with) <= 500_000
    )
    if "artv_latents" not in file.metadata or not sound or not (seed.isdecimal() and len(seed) <= 20):
        raise ValueError(f"{path} does not hold latents of frames; expected a file that save_latents wrote")
    latents = next(tensor.clone() for _, tensor in file.read(["latents"]))
    if not all(torch.isfinite(part).all() for part in latents.flatten().split(2**20)):
        raise ValueError(f"{path} holds latents that are infinite or not a number")
    return SavedLatents(latents, int(seed), made_with)


def load_journal(path: str | Path) -> SavedLatents:
    """All frames that can be read from a journal. Raises ValueError, one line, where there are none."""
    with JournalReader(path) as journal:
        latents = [frame.latent for frame in journal.frames()]
        about = journal.header.about
    if not latents:
        raise ValueError(f"{path} holds no frame yet")
    stacked = torch.stack(latents)
    if not torch.isfinite(stacked).all():
        raise ValueError(f"{path} holds latents that are infinite or not a number")
    seed, settings = about.get("seed"), about.get("settings")
    sound_seed = seed if type(seed) is int and 0 <= seed <= MAX_SEED else 0
    return SavedLatents(stacked, sound_seed, settings if isinstance(settings, str) else "")


def like_saved(options: GenerateOptions, saved: SavedLatents, factor: int) -> GenerateOptions:
    """Options with the number of videos of `saved`, and its size where none was chosen."""
    height, width = (side * factor for side in saved.latents.shape[-2:])
    return dataclasses.replace(
        options,
        height=height if options.height is None else options.height,
        width=width if options.width is None else options.width,
        batch_size=saved.latents.shape[1],
    )

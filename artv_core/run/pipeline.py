"""From prompts and images to images: encodes inputs for `generate.generate_frames`, and decodes its frames."""

import contextlib
import dataclasses
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoint import load_checkpoint, load_taesd_decoder, resolve_checkpoint
from ..files.finite import NotFiniteError, is_finite
from ..files.tensor_file import open_tensor_file, write_tensor_file
from ..method.denoiser import RunNetworks, run_networks
from ..method.frames import AnchorPolicy, Frame
from ..method.generate import StepCallback, VideoRequest, as_batch, check_keyframes, check_latent
from ..method.options import MAX_SEED, GenerateOptions
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
"""One prompt for all frames, or (start frame, prompt) pairs that ascend from frame 0, or encoded prompts."""


@dataclass(frozen=True)
class DecodedFrame:
    """A frame with its image: absolute index, image [B, 3, H, W] float32 in [0, 1], latent [B, C, h, w] float32 in the
    model's own scale, and the mean copy mask [B, 1, h, w] (1 = copied), or None if the frame was given or nothing was
    copied. Tensors are on the model's device."""

    index: int
    image: Tensor
    latent: Tensor
    mask: Tensor | None


class Pipeline:
    """A model with text encoding and image decoding. `Pipeline(model)` takes any `ARTV` module and does not change it.

    `run_networks` may be a faster version, such as `speed.compiled.Compiled`. `taesd` (see `load_taesd_decoder`) is a
    decoder to use instead of the model's VAE: much faster, and less exact. Raises ValueError if `taesd` does not fit
    the model's latents."""

    def __init__(self, model: ARTV, run_networks: RunNetworks = run_networks, taesd: nn.Module | None = None) -> None:
        self.model, self.run_networks, self.taesd = model, run_networks, taesd
        channels = model.config.vae.latent_channels
        if taesd is not None and channels != TAESD_CHANNELS:
            raise ValueError(
                f"TAESD decodes latents of {TAESD_CHANNELS} channels, this model's have {channels}; leave it out"
            )

    @classmethod
    def from_checkpoint(
        cls,
        name_or_path: str | Path | None = None,
        *,
        base: str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
        fp8: bool = False,
        taesd: str | Path | None = None,
        graph: bool = True,
    ) -> "Pipeline":
        """Load a checkpoint, given by path or shipped name (None: the default one, see `checkpoint.default_name`), and
        prepare it with `make_pipeline`. Raises the errors of that function and of `load_checkpoint`."""
        model = load_checkpoint(resolve_checkpoint(name_or_path), base=base, device=device, dtype=dtype)
        decoder = None if taesd is None else load_taesd_decoder(taesd, device, dtype)
        return make_pipeline(model, compiled=compiled, fp8=fp8, taesd=decoder, graph=graph)

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return next(self.model.noise.parameters()).device

    def encode_prompts(self, prompts: Prompts) -> TextTrack:
        """Encode prompts to the text of each frame: contexts [L, D], or [B, L, D] if each video has its own text.
        Weights, as in `a (red:1.3) circle`, have the same meaning as in ComfyUI (`prompt_weights`).

        Raises ValueError without a text encoder, on weights out of range, and if starts do not ascend from 0.
        """
        if isinstance(prompts, TextTrack):
            return prompts
        pairs = [(0, prompts)] if isinstance(prompts, str) else prompts
        return TextTrack([TextSegment(start, self._encode_prompt(prompt)) for start, prompt in pairs])

    def encode_image(self, image: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] to latents [B, C, h, w] float32. Raises the errors of `ARTV.encode_images`."""
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
        keyframes: Mapping[int, Tensor] | None = None,
    ) -> Generator[DecodedFrame, None, None]:
        """Yield all frames of the video from frame 0 on, each as soon as it is made. Given frames come first, decoded.

        `image` [1 or B, 3, H, W] in [0, 1] is frame 0. Instead, `given` may have the latents of the first frames ([T,
        C, h, w] or [T, B, C, h, w]), and the video continues from them. With neither, frame 0 is made from text.
        `keyframes` has latents of frames anywhere else ([C, h, w] or [1 or B, C, h, w]), by frame index
        (`VideoRequest.keyframes`). `on_step` is called once in each denoising step, after its first evaluation
        (`StepCallback`). With a `recording`, each frame is stored in a journal, and frames that are already there are
        not made again. Raises ValueError on input that does not fit, before anything is sampled.
        """
        options = options.resolved(self.model.config)
        latents = list(given) if given is not None else []
        if image is not None and latents:
            raise ValueError("an image and given frames exclude each other: the image would be frame 0")
        if image is not None:
            latents = [self.encode_image(image)]
        latents = [as_batch(latent, options, self.model) for latent in latents]
        placed = {index: as_batch(latent, options, self.model) for index, latent in (keyframes or {}).items()}
        check_keyframes(placed, len(latents), options.num_frames)
        anchor = anchor or AnchorPolicy()
        for latent in (*([] if anchor.latent is None else [anchor.latent]), *anchor.by_segment):
            check_latent(latent, options, self.model, "the anchor's latent")
        text, null = self.encode_prompts(prompts), None if negative is None else self._encode_prompt(negative)
        if self.taesd is None:
            self.model.require_vae()
        request = VideoRequest(text, options, null, anchor, on_step, self.run_networks, placed)
        return self._decoded(record_frames(self.model, request, recording, latents))

    def _decoded(self, frames: Generator[Frame, None, None]) -> Generator[DecodedFrame, None, None]:
        # A generator, so that a caller that stops early can close it, and so the journal.
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
        """Decode a frame's image. Raises ValueError without a VAE."""
        with torch.no_grad():
            return DecodedFrame(frame.index, self._image(frame.latent), frame.latent, frame.mask)

    def _image(self, latent: Tensor) -> Tensor:
        if self.taesd is None:
            return self.model.decode_latents(latent)
        weight = next(self.taesd.parameters())
        return self.taesd(latent.to(weight.device, weight.dtype)).float().clamp(0, 1)

    def _encode_prompt(self, prompt: Prompt) -> Tensor:
        # One text at a time: not even the last bits of its context may depend on other texts in a batch.
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
    """Prepare a model for the fastest sampling. Changes the model; it can then not be trained or moved.

    The memory format becomes channels last. On a CPU, weights are packed. On a GPU, layers are fused, and evaluations
    run as CUDA graphs if `graph` (`speed.graphs.Captured`).

    `compiled` uses `speed.compiled.Compiled`; weights are then not packed. `fp8` halves the networks' memory
    (`speed.fp8_weights.store_fp8`) and costs some time and accuracy. Raises ValueError if a compiler is needed and
    missing, and with `fp8` if the device has no 8-bit floats.
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
    way = Compiled(device, graph=graph) if compiled else Captured(device) if graph and on_gpu else run_networks
    return Pipeline(model, way, taesd)


def prepare_for_gpu(model: ARTV) -> None:
    """Make layers run in fewer GPU kernels: group norm with SiLU, gated GELU, and self-attention's projections."""
    fuse(model, model.noise.device, model.noise.dtype)
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.join()


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU if there is one. Raises ValueError if it is not available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, index = name.partition(":")
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if kind not in present or (colon and not re.fullmatch("0|[1-9][0-9]{0,3}", index)):
        raise ValueError(f"unknown device {name!r}; accepted are auto, cpu, cuda, cuda:0 and mps")
    if int(index or 0) >= present[kind]:
        found = ", ".join(f"{kind} ({count})" for kind, count in present.items() if count)
        raise ValueError(f"device {name!r} is not available; this machine has: {found}")
    return torch.device(name)


def save_latents(path: str | Path, latents: Sequence[Tensor], seed: int, made_with: str = "") -> None:
    """Write T frames' latents (each [B, C, h, w]) to one safetensors file, as `latents` [T, B, C, h, w] float32. Its
    metadata gets the seed and `made_with` (settings as text). Raises ValueError if the file cannot be written or a
    latent is not finite."""
    stacked = torch.stack([latent.detach().cpu().float() for latent in latents])
    for index, latent in enumerate(stacked):
        if not is_finite(latent):
            raise NotFiniteError(index)
    write_tensor_file(path, {"latents": stacked}, {"artv_latents": "1", "seed": str(seed), "made_with": made_with})


@dataclass(frozen=True)
class SavedLatents:
    """Frames to continue from: `latents` [T, B, C, h, w] float32, and the seed and settings that made them."""

    latents: Tensor
    seed: int
    made_with: str = ""


def load_latents(path: str | Path) -> SavedLatents:
    """Read a file of `save_latents`. Raises ValueError on any other file."""
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
        raise ValueError(f"{path} does not contain latents of frames; expected a file that save_latents wrote")
    latents = next(tensor.clone() for _, tensor in file.read(["latents"]))
    if not all(torch.isfinite(part).all() for part in latents.flatten().split(2**20)):
        raise ValueError(f"{path} contains latents that are infinite or not a number; choose another file")
    return SavedLatents(latents, int(seed), made_with)


def load_journal(path: str | Path) -> SavedLatents:
    """All frames that can be read from a journal. Raises ValueError if there are none or one is not finite."""
    with JournalReader(path) as journal:
        latents = [frame.latent for frame in journal.frames()]
        about = journal.header.about
    if not latents:
        raise ValueError(f"{path} contains no frame yet; wait for its first frame, or choose another journal")
    stacked = torch.stack(latents)
    if not torch.isfinite(stacked).all():
        raise ValueError(f"{path} contains latents that are infinite or not a number; choose another file")
    seed, settings = about.get("seed"), about.get("settings")
    sound_seed = seed if type(seed) is int and 0 <= seed <= MAX_SEED else 0
    return SavedLatents(stacked, sound_seed, settings if isinstance(settings, str) else "")


def like_saved(options: GenerateOptions, saved: SavedLatents, factor: int) -> GenerateOptions:
    """The options with the batch size of `saved`, and its height and width where these are None. `factor` is the number
    of pixels per latent cell."""
    height, width = (side * factor for side in saved.latents.shape[-2:])
    return dataclasses.replace(
        options,
        height=height if options.height is None else options.height,
        width=width if options.width is None else options.width,
        batch_size=saved.latents.shape[1],
    )

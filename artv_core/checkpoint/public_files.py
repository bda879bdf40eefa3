"""Public model files: their kind, what their UNet predicts, and their tensors under Stable Diffusion's usual names.

All this follows from names and shapes in the header; only `prediction_of` also reads one small tensor. Only names that
are listed here are renamed or ignored. Code that reads the tensors still compares each of them with what a model needs.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from fnmatch import translate
from typing import NamedTuple

from ..files.partial_file import one_line
from ..files.tensor_file import TensorFile, TensorInfo

SD1, SD2 = "a Stable Diffusion 1.x checkpoint", "a Stable Diffusion 2.x checkpoint"

PUBLIC_SD_EXTRAS = (
    "betas",
    "alphas_cumprod*",
    "sqrt_*alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "posterior_*",
    "logvar",
    "lvlb_weights",
    "scale_factor",
    "denoiser.sigmas",
    "denoiser.log_sigmas",
    "v_pred",
    "ztsnr",
    "epoch",
    "global_step",
    "model_ema.*",
    "control_model.*",
    "safety_checker.*",
    "embedding_manager.*",
    "bundle_emb.*",
    "string_to_param.*",
    "string_to_token.*",
    "emb_params",
    "cond_stage_model.model.logit_scale",
    "cond_stage_model.model.text_projection",
    "cond_stage_model.model.text_projection.weight",
    "cond_stage_model.model.attn_mask",
    "cond_stage_model.model.visual.*",
    "cond_stage_model.*.position_ids",
    "cond_stage_model.logit_scale",
    "cond_stage_model.text_projection",
    "cond_stage_model.text_projection.weight",
    "cond_stage_model.transformer.logit_scale",
    "cond_stage_model.transformer.text_projection.weight",
    "cond_stage_model.transformer.vision_model.*",
    "cond_stage_model.transformer.visual_projection.weight",
    "first_stage_model.model_ema.*",
    "first_stage_model.loss.*",
)
"""Key patterns of other data in public SD files, which is ignored. All other unknown keys are refused."""


_EXTRA = re.compile("|".join(translate(pattern) for pattern in PUBLIC_SD_EXTRAS))


# Kinds of files

_UNET = "model.diffusion_model."
_SD1_TEXT, _SD2_TEXT = "cond_stage_model.transformer.", "cond_stage_model.model."
_CHANNELS = {
    5: "a depth-to-image checkpoint (its UNet takes 5 channels)",
    7: "an upscaler's checkpoint (its UNet takes 7 channels)",
    8: "an image-editing checkpoint such as InstructPix2Pix (its UNet takes 8 channels)",
    9: "an inpainting checkpoint (its UNet takes 9 channels)",
}
_OTHER_UNETS = (
    (r"model\.diffusion_model\.joint_blocks\.", "a Stable Diffusion 3 checkpoint"),
    (r"model\.diffusion_model\.(double|single)_blocks\.", "a Flux checkpoint, or one of its kind"),
    (r"conditioner\.embedders\.0\.open_clip\.|model\.diffusion_model\..*\.time_(stack|mixer)\.", "a Stable Video "
     "Diffusion checkpoint"),
    (r"model\.diffusion_model\..*(temporal|temopral)", "a video diffusion checkpoint of another kind"),
    (r"noise_augmentor\.|embedder\.model\.visual\.", "a Stable Diffusion unCLIP checkpoint"),
    (r"conditioner\.embedders\.|model\.diffusion_model\.label_emb\.", "an SDXL checkpoint"),
)  # fmt: skip
_OTHER_FILES = (
    (r"model_ema\.diffusion_model", "a Stable Diffusion checkpoint with the averaged (EMA) weights of its UNet alone"),
    (r"lora_(unet|te\d?|prior)_|.*\.(lora_[AB]|lora_up|lora_down|lora\.up|lora\.down)\.|.*\.(hada|lokr)_w[12]",
     "a LoRA"),
    (r"control_model\.|controlnet_|input_hint_block\.", "a ControlNet"),
    (r".*\.?motion_modules\.", "an AnimateDiff motion module"),
    (r"(image_proj|ip_adapter)\.", "an IP-Adapter"),
    (r"(adapter\.)?body\.\d+\.(resnets|block1)\.", "a T2I-Adapter"),
    (r"first_stage_model\.|taesd_|(encoder|decoder)\.(layers\.\d|(down|up)\.\d)", "a VAE"),
    (r"(encoder|decoder)\.(down_blocks|up_blocks|mid_block)\.", "a VAE with the names of diffusers"),
    (r"(unet\.)?(down_blocks|up_blocks|mid_block)\.\d*", "a UNet with the names of diffusers; a single file with LDM "
     "keys is needed"),
    (r"(diffusion_model\.)?(input|output)_blocks\.\d", "a UNet without the usual prefix model.diffusion_model."),
    (r"(model\.diffusion_model\.|diffusion_model\.|transformer\.)?"
     r"(double_blocks|single_blocks|joint_blocks|transformer_blocks)\.\d", "a diffusion transformer, without a UNet"),
    (r"vision_model\.|visual\.", "an image encoder (CLIP vision)"),
    (r"(transformer\.)?text_model\.|transformer\.resblocks\.|encoder\.block\.\d", "a text encoder alone"),
    (r"(emb_params|clip_[gl]|string_to_param.*|<.*>)$", "a textual inversion (an embedding)"),
    (r"(model\.\d+\.sub\.|conv_first\.)", "an image upscaler"),
)  # fmt: skip


def kind_of(file: TensorFile) -> str:
    """The kind of a file, as a phrase. `SD1` and `SD2` are files that a model of this family can use. The file must
    have the usual names (`with_usual_names`)."""
    keys = file.tensors
    has_unet = any(key.startswith(_UNET) for key in keys)
    if has_unet or any(key.startswith("conditioner.") for key in keys):
        other = _first_match(keys, _OTHER_UNETS)
        channels = input_channels(file)
        if channels in _CHANNELS:
            return _CHANNELS[channels]
        if other:
            return other
    if not _is_averaged_only(keys):
        for prefix, family in ((_SD1_TEXT, SD1), (_SD2_TEXT, SD2)):
            if has_weights(file, prefix):
                return family
    if any(key.startswith(f"{_UNET}input_blocks.") for key in keys):
        return SD1 if _has_convolutional_projections(file) else SD2
    if has_unet:
        return "a diffusion model of another kind"
    return _first_match(keys, _OTHER_FILES) or _unknown(file)


def has_weights(file: TensorFile, prefix: str) -> bool:
    """Whether there is a key with this prefix that is no extra. Merged files may keep only extras."""
    return any(key.startswith(prefix) and not is_extra(key) for key in file.tensors)


def is_extra(key: str) -> bool:
    """Whether a key of a file is one of `PUBLIC_SD_EXTRAS`."""
    return _EXTRA.match(key) is not None


def _is_averaged_only(keys: Collection[str]) -> bool:
    return not any(key.startswith(_UNET) for key in keys) and any(key.startswith("model_ema.diff") for key in keys)


def _first_match(keys: Iterable[str], marks: Iterable[tuple[str, str]]) -> str | None:
    for pattern, kind in marks:
        found = re.compile(pattern).match
        if any(found(key[:400]) for key in keys):
            return kind
    return None


def input_channels(file: TensorFile) -> int | None:
    """The number of channels that the UNet takes, or None if there is no UNet."""
    stem = file.tensors.get(f"{_UNET}input_blocks.0.0.weight")
    return stem.shape[1] if stem is not None and len(stem.shape) == 4 else None


def _has_convolutional_projections(file: TensorFile) -> bool:
    """Whether the UNet is one of SD 1.x rather than 2.x. For files without a text encoder."""
    return any(
        key.startswith(_UNET) and key.endswith(".proj_in.weight") and len(tensor.shape) == 4
        for key, tensor in file.tensors.items()
    )


def _unknown(file: TensorFile) -> str:
    first = next(iter(file.tensors), None)
    if first is None:
        return "a safetensors file without tensors"
    return f"a safetensors file of another kind (first key: {one_line(first, 60)})"


# Predictions


class Prediction(NamedTuple):
    """What a UNet predicts: `kind` is "eps" or "v". `zero_terminal_snr` is True if the file says so, `sure` unless it
    is a guess."""

    kind: str
    zero_terminal_snr: bool
    sure: bool

    def __str__(self) -> str:
        extra = ", with zero terminal SNR" if self.zero_terminal_snr else ""
        return f"predicts {self.kind}{extra}" if self.sure else f"seems to predict {self.kind} (judged by its weights)"


_LAST_NORM = f"{_UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
# In public UNets of SD 2, the spread of these biases is much larger if they predict v. ComfyUI has the same threshold.
_V_SPREAD = 0.09


def prediction_of(file: TensorFile) -> Prediction | None:
    """What the UNet of a public SD file predicts, or None if it is unknown.

    The keys `v_pred` and `ztsnr`, and `modelspec.prediction_type` in the metadata, are certain. Without them it is a
    guess: SD 1.x predicts eps, as nearly all such models do, and SD 2.x is judged by the spread of one bias in its last
    attention block.
    """
    if "v_pred" in file.tensors or "ztsnr" in file.tensors:
        return Prediction("v", "ztsnr" in file.tensors, sure=True)
    noted = file.metadata.get("modelspec.prediction_type", "")[:40].strip().lower()
    if noted in ("v", "v_prediction", "epsilon", "eps"):
        return Prediction("v" if noted.startswith("v") else "eps", False, sure=True)
    kind = kind_of(file)
    if kind == SD1 and input_channels(file) is not None:
        return Prediction("eps", False, sure=False)
    if kind != SD2 or _LAST_NORM not in file.tensors:
        return None
    for _, bias in file.read([_LAST_NORM]):
        spread = bias.float().std(unbiased=False).item()
        return Prediction("v" if spread > _V_SPREAD else "eps", False, sure=False)
    return None


# Usual names

_SGM_TEXT = "conditioner.embedders.0."
_VAE_ATTENTION = re.compile(r"(first_stage_model\.(?:encoder|decoder)\.mid\.attn_1\.)(.+)\.(weight|bias)")
_VAE_NAMES = {
    "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm",
    "query": "q", "key": "k", "value": "v", "proj_attn": "proj_out",
}  # fmt: skip
_LINEAR_OR_CONVOLUTION = re.compile(
    r"first_stage_model\.(encoder|decoder)\.mid\.attn_1\.(q|k|v|proj_out)\.weight"
    r"|model\.diffusion_model\.(input_blocks\.\d+|middle_block|output_blocks\.\d+)\.1\.proj_(in|out)\.weight"
)


def with_usual_names(file: TensorFile) -> TensorFile:
    """Replace names of other tools by Stable Diffusion's own: sgm's names for the text encoder, and diffusers' names in
    the VAE's attention. A name stays unchanged if the new name exists already."""
    sgm = not any(key.startswith(("conditioner.embedders.1.", "cond_stage_model.")) for key in file.tensors)
    renamed = {key: _usual_name(key, sgm) for key in file.tensors}
    stored = {new: old for old, new in renamed.items() if new != old and new not in file.tensors}
    if not stored:
        return file
    kept = {old: new for new, old in stored.items()}
    tensors = {kept.get(key, key): info for key, info in file.tensors.items()}
    return replace(file, tensors=tensors, stored=stored)


def _usual_name(key: str, sgm: bool) -> str:
    for inner in ("model.", "transformer."):
        if sgm and key.startswith(_SGM_TEXT + inner):
            return "cond_stage_model." + key.removeprefix(_SGM_TEXT)
    match = _VAE_ATTENTION.fullmatch(key)
    if match and match[2] in _VAE_NAMES:
        return f"{match[1]}{_VAE_NAMES[match[2]]}.{match[3]}"
    return key


def with_shapes(file: TensorFile, wanted: Mapping[str, tuple[int, ...]]) -> TensorFile:
    """The file with attention projections in the `wanted` shapes: a linear layer's [C, C] and a 1x1 convolution's
    [C, C, 1, 1] contain the same numbers. No other tensor changes."""
    changed = {
        key: TensorInfo(info.dtype, wanted[key])
        for key, info in file.tensors.items()
        if key in wanted and info.shape != wanted[key] and _LINEAR_OR_CONVOLUTION.fullmatch(key)
        and {info.shape, wanted[key]} == {wanted[key][:2], (*wanted[key][:2], 1, 1)}
    }  # fmt: skip
    return replace(file, tensors={**file.tensors, **changed}) if changed else file

"""Measures how well a caption fits a clip: the mean cosine similarity of their CLIP embeddings, by open_clip. Nothing
is downloaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.decode import read_frames
from ..data.sources import Entry

NOT_HERE = ("hf_model_name", "hf_tokenizer_name")


class ClipScorer:
    """An open_clip model that scores how well captions fit."""

    def __init__(self, model: str, weights: str | Path, device: str = "cpu", dtype: str = "float32") -> None:
        """`model` is the name of a model in open_clip, or a JSON file: a model's configuration, or the
        `open_clip_config.json` published with the weights. `weights` is a safetensors file. Raises ValueError if the
        files are missing or do not fit together."""
        from open_clip.tokenizer import SimpleTokenizer

        config, self.mean, self.deviation = _configuration(model)
        self.device, self.dtype = torch.device(device), getattr(torch, dtype)
        self.model = _filled(_built(config, model), Path(weights), model).to(self.device, self.dtype)
        text, vision = config["text_cfg"], config["vision_cfg"]
        side = vision.get("image_size", 224)
        self.size = (side, side) if isinstance(side, int) else tuple(side)
        self._tokenize = SimpleTokenizer(
            context_length=text.get("context_length", 77), **text.get("tokenizer_kwargs", {})
        )

    def score(self, entry: Entry, start: float, end: float, count: int) -> float:
        """The mean cosine similarity of the caption and `count` evenly spaced frames between `start` and `end`, seconds
        from the clip's start. Raises BrokenClip."""
        times = [start + (end - start) * (number + 0.5) / count for number in range(count)]
        return round(self.similarity(entry.caption, read_frames(entry, times, self.size)), 5)

    def similarity(self, caption: str, images: Tensor) -> float:
        """The mean cosine similarity of a caption and images [n, 3, H, W] in [0, 1] of the model's size."""
        return float((self.embed_images(images) @ self.embed_text(caption)).mean())

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """Images [n, 3, H, W] in [0, 1] of the model's size -> [n, D] float32, of length 1."""
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (self.mean, self.deviation))
        pixels = ((images - mean) / deviation).to(self.device, self.dtype)
        return self.model.encode_image(pixels, normalize=True).float()

    @torch.no_grad()
    def embed_text(self, caption: str) -> Tensor:
        """[D] float32, of length 1."""
        return self.model.encode_text(self._tokenize([caption]).to(self.device), normalize=True).float()[0]


def clip_identity(model: str, weights: str | Path) -> str:
    """A hash of the configuration and the weights, on which the scores depend. Raises ValueError if a file cannot be
    read."""
    digest = hashlib.sha256(json.dumps(_configuration(model), sort_keys=True).encode())
    try:
        with Path(weights).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise ValueError(f"cannot read {weights}: {(error.strerror or str(error)).lower()}") from None
    return digest.hexdigest()[:16]


def _configuration(model: str) -> tuple[dict[str, Any], Sequence[float], Sequence[float]]:
    """The model's configuration, and the mean and standard deviation of the pixels it was trained on."""
    import open_clip

    preprocessing: dict[str, Any] = {}
    if model.endswith(".json"):
        data = _read_json(Path(model))
        config, preprocessing = data.get("model_cfg", data), data.get("preprocess_cfg", {})
    else:
        config = open_clip.get_model_config(model)
        if config is None:
            raise ValueError(f"open_clip has no model {model!r}; it has, among others, ViT-B-32, ViT-L-14, ViT-H-14")
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
        raise ValueError(
            f"{model} is not a configuration of an open_clip model: embed_dim, vision_cfg, text_cfg are needed"
        )
    foreign = [name for name in NOT_HERE if config["text_cfg"].get(name)]
    if foreign or "multimodal_cfg" in config:
        raise ValueError(
            f"{model} needs parts that open_clip would download; use one of its own models, such as ViT-H-14"
        )
    mean = preprocessing.get("mean", open_clip.OPENAI_DATASET_MEAN)
    return config, mean, preprocessing.get("std", open_clip.OPENAI_DATASET_STD)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {str(error).splitlines()[0]}") from None
    return data if isinstance(data, dict) else {}


def _built(config: dict[str, Any], name: str) -> Any:
    from open_clip.model import CLIP, CustomTextCLIP

    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    kind = CustomTextCLIP if config.get("custom_text") else CLIP
    try:
        return kind(**arguments).eval().requires_grad_(False)
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        raise ValueError(f"open_clip cannot build {name}: {' '.join(str(error).split())[:200]}") from None


def _filled(model: Any, weights: Path, name: str) -> Any:
    from ..files.tensor_file import open_tensor_file

    file = open_tensor_file(weights)
    wanted = model.state_dict()
    faults = [f"{key} is missing" for key in wanted if key not in file.tensors]
    faults += [f"{key} is not expected" for key in file.tensors if key not in wanted]
    faults += [
        f"{key} is {list(file.tensors[key].shape)} instead of {list(wanted[key].shape)}"
        for key in wanted
        if key in file.tensors and file.tensors[key].shape != tuple(wanted[key].shape)
    ]
    if faults:
        raise ValueError(f"{weights} does not contain the weights of {name}: {'; '.join(faults[:3])}")
    model.load_state_dict({key: tensor.clone() for key, tensor in file.read(wanted)})
    return model

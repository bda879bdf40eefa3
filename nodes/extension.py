"""Registers the nodes with the host."""

from comfy_api.latest import ComfyExtension, io

from ..artv_core.prompts.answering import answer_schedule
from . import copies, model_files
from .adapt import ARTVAdaptModel
from .conditions import ARTVAnchorFrame, ARTVNoiseAugment
from .decode import ARTVDecodeVideo
from .drift import ARTVDriftReadout
from .fit_image import ARTVFitImage
from .journal import ARTVJournals, ARTVJournalSettings, ARTVLoadJournal
from .keyframes import ARTVKeyframes
from .live import recall, watch
from .loader import ARTVLoader, answer_checkpoint
from .lora import ARTVLoRA
from .routes import Answer, add_routes
from .sampler import ARTVMaskedDiffusionSampler
from .sampling_options import ARTVSamplingOptions
from .scheduler import ARTVMultiPromptScheduler
from .shortcuts import ARTVShortcutSettings
from .steer import answer_steer
from .step_masks import ARTVStepMasks
from .stream import ARTVStreamVideo
from .words import answer_words

NODES: list[type[io.ComfyNode]] = [
    ARTVLoader,
    ARTVAdaptModel,
    ARTVMaskedDiffusionSampler,
    ARTVMultiPromptScheduler,
    ARTVAnchorFrame,
    ARTVNoiseAugment,
    ARTVFitImage,
    ARTVKeyframes,
    ARTVDecodeVideo,
    ARTVDriftReadout,
    ARTVStepMasks,
    ARTVLoRA,
    ARTVStreamVideo,
    ARTVJournalSettings,
    ARTVLoadJournal,
    ARTVJournals,
    ARTVShortcutSettings,
    ARTVSamplingOptions,
]

ANSWERS: dict[str, Answer] = {
    "live": watch,
    "recall": recall,
    "checkpoint": answer_checkpoint,
    "schedule": answer_schedule,
    "words": answer_words,
    "steer": answer_steer,
    "copies": copies.answer_copies,
}


class ARTVExtension(ComfyExtension):
    """The extension that `comfy_entrypoint` returns to the host."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes. Also registers the folder of checkpoints and the request handlers for the page. A spare copy of
        the pack adds none of these."""
        copies.tell_log()
        if copies.is_spare():
            return []
        model_files.register_folder()
        add_routes(ANSWERS)
        return NODES

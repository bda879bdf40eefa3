"""The prompt scheduler: turns one text with many prompts into native CONDITIONING. The core reads the text."""

import logging
from typing import Any

from comfy_api.latest import io

from ..artv_core.prompts.grammar import MAX_FRAME, parse_prompt_schedule
from ..artv_core.prompts.prompt_schedule import PromptSchedule
from .automatic import Automatic, advanced
from .bridge import schema
from .checks import verdict
from .prompt_track import FADE_KEY, RANGE_KEY, TEXT_KEY, WEIGHT_KEY
from .steer import STEER_KEY, steerable

logger = logging.getLogger(__name__)

EXAMPLE = """"0": "a car moving right slowly on a purple background",
"8": "a car bouncing on a purple background"\
"""

NUM_FRAMES = Automatic(
    "num_frames",
    "Length of the video in frames; a prompt that starts later is an error. auto: the length of the sampler's video.",
    whole=True,
    most=MAX_FRAME,
    shows="frames",
    meaning="the length of the sampler's video",
)


class ARTVMultiPromptScheduler(io.ComfyNode):
    """Prompts by frame. Each text is encoded once, with the frames it applies to."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return schema(
            node_id="ARTVMultiPromptScheduler",
            display_name="ARTV Multi-Prompt Scheduler",
            category="ARTV",
            description="Assigns a prompt to each range of frames. Reads the syntax of other prompt "
            "schedulers; connect it to the positive input of the Masked Diffusion Sampler.",
            search_aliases=[
                "artv",
                "prompt schedule",
                "two prompts",
                "several prompts",
                "multi prompt",
                "prompt travel",
                "batch prompt schedule",
                "keyframes",
                "fizznodes",
                "deforum",
            ],
            inputs=[*_texts(), *_frames()],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompts, each with its range of frames."),
                io.String.Output(
                    display_name="schedule",
                    tooltip="The prompts as they were understood, one per line with the frame it starts at, "
                    "without the text before and after every prompt. You can paste it into the text box.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        text: str | None = None,
        segment_frames: int | None = None,
        fps: float | None = None,
        num_frames: Any = None,
    ) -> bool | str:
        """Read the text as `execute` does."""
        told = verdict(NUM_FRAMES.check, num_frames)
        return verdict(_read, text, segment_frames, fps, num_frames) if told is True else told

    @classmethod
    def execute(
        cls,
        clip: Any,
        text: str,
        pre_text: str,
        app_text: str,
        blend_frames: int,
        fps: float,
        num_frames: Any,
        segment_frames: int,
    ) -> io.NodeOutput:
        """Read the text, encode each prompt once, and note to which frames it applies."""
        if clip is None:
            raise ValueError(
                "the clip input is empty, because the checkpoint it comes from has no text encoder; choose its base in "
                "the menu 'base' of ARTV Loader, or connect another CLIP"
            )
        schedule = _read(text, segment_frames, fps, num_frames)
        if warning := schedule.warning():
            logger.warning("ARTV Multi-Prompt Scheduler: %s", warning)
        segments = schedule.surrounded(pre_text, app_text).segments
        encoded = {prompt: encode(clip, prompt) for prompt in dict.fromkeys(segment.text for segment in segments)}
        conditioning = []
        for typed, segment, span in zip(schedule.segments, segments, schedule.spans(blend_frames), strict=True):
            keys = {RANGE_KEY: (span.start, span.end), WEIGHT_KEY: 1.0, FADE_KEY: (span.fade_in, span.fade_out)}
            keys[TEXT_KEY] = segment.text
            for context, options in encoded[segment.text]:
                note = steerable(clip, typed.text, context, pre_text, app_text, blend_frames)
                conditioning.append([context, {**options, **keys, STEER_KEY: note}])
        return io.NodeOutput(conditioning, schedule.canonical())


def _texts() -> list[io.Input]:
    """Inputs for the prompts and their encoder."""
    return [
        io.Clip.Input(
            "clip",
            tooltip="Encodes the prompts. Take the CLIP from ARTV Loader, or of your own graph with ARTV Adapt Model.",
        ),
        io.String.Input(
            "text",
            default=EXAMPLE,
            multiline=True,
            dynamic_prompts=False,
            tooltip='Prompts with the frame each one starts at, and a colon: "0": "a fox in a forest", "24": "a fox '
            'standing still". Or ranges, [0s-3s: a fox in a forest] [3s-6s: a fox standing still], or one '
            "prompt per line.",
        ),
        _around("pre_text", "before"),
        _around("app_text", "after"),
    ]


def _around(name: str, where: str) -> io.Input:
    return advanced(
        io.String.Input(
            name,
            display_name=f"text {where} every prompt",
            default="",
            multiline=True,
            dynamic_prompts=False,
            tooltip=f"Words that are put {where} every prompt, such as what all of them share. Empty: nothing.",
        )
    )


def _frames() -> list[io.Input]:
    """Inputs that say when prompts change."""
    return [
        io.Int.Input(
            "blend_frames",
            default=0,
            min=0,
            max=MAX_FRAME,
            tooltip="Number of frames over which each prompt fades in while the one before fades out. 0: the prompt "
            "changes at once.",
        ),
        io.Float.Input(
            "fps",
            default=8.0,
            min=0.01,
            max=1000.0,
            step=0.01,
            tooltip="Frames per second of the video. Only used for times in seconds.",
        ),
        NUM_FRAMES.input(),
        io.Int.Input(
            "segment_frames",
            default=16,
            min=1,
            max=MAX_FRAME,
            tooltip="How many frames each prompt lasts if the text is one prompt per line, without times.",
        ),
    ]


def _read(text: str, segment_frames: int, fps: float, num_frames: Any) -> PromptSchedule:
    length = NUM_FRAMES.whole_number(num_frames) or 0
    return parse_prompt_schedule(text, segment_frames=segment_frames, fps=fps, num_frames=length, name="text")


def encode(clip: Any, text: str) -> list[Any]:
    """Native CONDITIONING of one text, encoded by the host."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))

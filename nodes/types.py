"""Socket types of this pack. All others are the host's."""

from comfy_api.latest import io

ARTVModel = io.Custom("ARTV_MODEL")
"""The host's model patcher around an `artv_core` model."""

ARTVAnchor = io.Custom("ARTV_ANCHOR")
"""A `conditions.AnchorSettings`."""

ARTVKeyframes = io.Custom("ARTV_KEYFRAMES")
"""A `keyframes.Placed`."""

ARTVJournal = io.Custom("ARTV_JOURNAL")
"""A `journal.JournalSettings`."""

ARTVStream = io.Custom("ARTV_STREAM")
"""A `stream.StreamSettings`."""

ARTVShortcuts = io.Custom("ARTV_SHORTCUTS")
"""A `artv_core.method.denoiser.Shortcuts`."""

ARTVNoise = io.Custom("ARTV_NOISE")
"""A `conditions.NoiseSettings`."""

ARTVOptions = io.Custom("ARTV_OPTIONS")
"""A `sampling_options.SamplingOptions`."""

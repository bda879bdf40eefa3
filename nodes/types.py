"""Socket types of our own. All others are the host's."""

from comfy_api.latest import io

ARTVModel = io.Custom("ARTV_MODEL")
"""The host's model patcher around an `artv_core` model."""

ARTVAnchor = io.Custom("ARTV_ANCHOR")
"""A `conditions.AnchorSettings`."""

ARTVNoise = io.Custom("ARTV_NOISE")
"""A `conditions.NoiseSettings`."""

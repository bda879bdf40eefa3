"""ARTV for ComfyUI. The core is in `artv_core`; this file is where the host will find the nodes."""

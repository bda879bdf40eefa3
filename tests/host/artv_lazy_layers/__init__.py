"""A pack for tests only: with it a host on a CPU makes its layers as it does for dynamic VRAM, without weights until
they are loaded. See `prestartup_script.py`."""

NODE_CLASS_MAPPINGS: dict[str, type] = {}

"""What the host's `main.py` does where it finds a card, as far as a CPU can go: its layers are made without weights and
files are read through its own memory map. Its patchers stay plain ones, since there is no card to load to."""

import comfy_aimdo.control

comfy_aimdo.control.init()  # before what follows, which binds to it

import comfy.memory_management  # noqa: E402

comfy.memory_management.aimdo_enabled = True

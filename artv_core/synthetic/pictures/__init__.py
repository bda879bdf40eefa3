"""Named things that move in detailed places: a world of pictures, rendered at any size on any device.

`names` has the words and captions, `scenes` draws what clips show, `motion` says where things are, `world` renders the
pictures; `things` and `places` are what they are composed of.
"""

from .names import caption, is_held_out, vocabulary
from .scenes import Scenes
from .world import PictureWorld, Window

__all__ = ["PictureWorld", "Scenes", "Window", "caption", "is_held_out", "vocabulary"]

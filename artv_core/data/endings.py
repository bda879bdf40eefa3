"""What files are taken for, by the ends of their names."""

VIDEO_ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts")
"""What a video's name may end in, in lower or upper case."""


def is_video(name: str) -> bool:
    """Whether a file of this name is taken for a video."""
    return name.lower().endswith(VIDEO_ENDINGS)

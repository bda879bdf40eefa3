"""How the type of a file is recognised by the end of its name."""

from collections.abc import Iterable

VIDEO_ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".divx", ".ts", ".mts", ".m2ts"),
    *(".m2t", ".mpg", ".mpeg", ".mpe", ".vob", ".wmv", ".asf", ".flv", ".ogv", ".ogm", ".mxf", ".dv", ".nut", ".ivf"),
    *(".y4m", ".gif"),
)
"""Endings of video files, in lower or upper case."""

UNREAD_ENDINGS = (
    *(".webp", ".apng", ".rm", ".rmvb", ".m1v", ".m2v", ".mpv", ".h264", ".264", ".avc", ".h265", ".265", ".hevc"),
    *(".obu", ".mjpg", ".mjpeg", ".swf", ".wtv", ".dvr-ms", ".mod", ".tod", ".amv", ".bik", ".braw", ".r3d", ".yuv"),
    *(".insv", ".lrv", ".mj2", ".evo", ".xvid", ".trp", ".m4p"),
)
"""Endings of files that are or may be videos, but in which frames cannot be found exactly. They are not read, but
reported."""

PACKED_ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
"""Endings of archives. They are reported too, because they may contain clips."""

_BESIDE_VIDEOS = (".webp", ".apng", ".lrv")
_NO_CLIPS = (
    *(".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".srt", ".vtt", ".ass", ".xml", ".html", ".yaml", ".yml"),
    *(".toml", ".log", ".npy", ".npz", ".pt", ".pth", ".safetensors", ".sft", ".parquet", ".part", ".lock"),
)


def is_video(name: str) -> bool:
    """Whether a file with this name counts as a video."""
    return name.lower().endswith(VIDEO_ENDINGS)


def unread(names: Iterable[str]) -> dict[str, str]:
    """Files of one folder, or members of one sample, that may be clips and are not read: {name: why}.

    They have the ending of another kind of video or of an archive, or a caption (.txt) of their own. Files next to a
    video of the same name, such as its thumbnail, do not count.
    """
    names = list(names)
    videos = {_stem(name) for name in names if is_video(name)}
    captioned = {_stem(name) for name in names if name.lower().endswith(".txt")}
    found = {}
    for name in names:
        low, stem = name.lower(), _stem(name)
        if low.endswith(PACKED_ENDINGS):
            found[name] = "it is an archive; unpack it, or make it a .tar"
        elif is_video(name) or low.endswith((".tar", *_NO_CLIPS)):
            continue
        elif ends_as_unread(low, stem in videos) or (stem in captioned and stem not in videos):
            found[name] = NO_VIDEO
    return found


def ends_as_unread(name: str, beside_video: bool) -> bool:
    """Whether a name ends like a video that cannot be read. A WebP file next to a video of the same name is its
    thumbnail."""
    return name.lower().endswith(UNREAD_ENDINGS) and not (beside_video and name.lower().endswith(_BESIDE_VIDEOS))


NO_VIDEO = "it is no kind of video that can be read; convert it to .mp4"


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name

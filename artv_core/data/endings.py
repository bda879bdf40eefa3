"""What files are taken for, by the ends of their names."""

from collections.abc import Iterable

VIDEO_ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".divx", ".ts", ".mts", ".m2ts"),
    *(".m2t", ".mpg", ".mpeg", ".mpe", ".vob", ".wmv", ".asf", ".flv", ".ogv", ".ogm", ".mxf", ".dv", ".nut", ".ivf"),
    *(".y4m", ".gif"),
)
"""What a video's name may end in, in lower or upper case."""

UNREAD_ENDINGS = (
    *(".webp", ".apng", ".rm", ".rmvb", ".m1v", ".m2v", ".mpv", ".h264", ".264", ".avc", ".h265", ".265", ".hevc"),
    *(".obu", ".mjpg", ".mjpeg", ".swf", ".wtv", ".dvr-ms", ".mod", ".tod", ".amv", ".bik", ".braw", ".r3d", ".yuv"),
    *(".insv", ".lrv", ".mj2", ".evo", ".xvid", ".trp", ".m4p"),
)
"""Of files that are, or may be, videos and that cannot be read with frames found exactly: these are named."""

PACKED_ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
"""Of archives, which are named, too: clips may lie within."""

_BESIDE_VIDEOS = (".webp", ".apng", ".lrv")
_NO_CLIPS = (
    *(".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".srt", ".vtt", ".ass", ".xml", ".html", ".yaml", ".yml"),
    *(".toml", ".log", ".npy", ".npz", ".pt", ".pth", ".safetensors", ".sft", ".parquet", ".part", ".lock"),
)


def is_video(name: str) -> bool:
    """Whether a file of this name is taken for a video."""
    return name.lower().endswith(VIDEO_ENDINGS)


def unread(names: Iterable[str]) -> dict[str, str]:
    """Of the files in one folder, or the members of one sample, those that may be clips and are not read: {name: why}.

    They end as other videos or as archives do, or have a caption (.txt) of their own. What lies beside a video of the
    same name, as its thumbnail does, is not meant.
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
    """Whether a name ends as a video's that cannot be read; beside a video of the same name WebP is its thumbnail."""
    return name.lower().endswith(UNREAD_ENDINGS) and not (beside_video and name.lower().endswith(_BESIDE_VIDEOS))


NO_VIDEO = "it is no kind of video that can be read; convert it to .mp4"


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name

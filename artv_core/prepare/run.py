"""`artv prepare` from start to end: list, score, select, encode, and write the index and the report.

`OUT/work` contains what one step leaves for the next: `scores-HASH/` (records, by the settings they depend on), the
lines of the current tasks, and the settings of the shards. Every file is written beside its place and then renamed.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..data.captions import cut_captions, note_cut_captions
from ..data.prepared import INDEX, MANIFEST, SHARDS, ShardRecord, read_record, write_dataset
from ..data.sources import Entry, list_entries
from ..files.partial_file import LEFT_BEHIND, replacing
from ..files.terminal import INTERRUPTED, say
from ..run.pipeline import pick_device
from . import encoding, scoring
from .options import PrepareOptions, score_settings, select_settings
from .selecting import Selection, clip_entry, drop_line, select
from .tasks import Engine, Task, check_installed, disconnect, run_tasks, single_threaded
from .unchanged import check_still_there, check_unchanged

if TYPE_CHECKING:
    from tqdm import tqdm

USUAL_FPS = 8.0
GATHERED_TASKS = 2 * scoring.SHARD // scoring.CHUNK
"""Gather the small files of scores into shards after this many."""

TRIED_AGAIN = "some videos could not be read for a reason that may pass; the same command tries them again"


def prepare(options: PrepareOptions) -> int:
    """Run the command. Returns the exit code: 0, or that of a run that was stopped, which keeps its finished pieces.

    Raises ValueError if something cannot be done, or if not a single clip is kept.
    """
    engine = _engine(options)
    with single_threaded(), _stop_is_an_interrupt(), _alone(options.output):
        try:
            paths = _Run(options, engine).all_steps()
        except KeyboardInterrupt:
            say(f"stopped; what is finished is kept in {options.output}, and the same command continues from there")
            return INTERRUPTED
        finally:
            disconnect()
    for path in paths:
        print(path)
    return 0


@dataclass
class _Run:
    """The steps of a run, one after another."""

    options: PrepareOptions
    engine: Engine

    def all_steps(self) -> list[Path]:
        """Run all steps. Returns the paths that were written, for the user."""
        options, work = self.options, self.options.output / "work"
        for folder in (options.output, work):
            _make_ready(folder)
        model = None if options.checkpoint is None and options.preset is None else encoding.model_facts(options)
        buckets = None if model is None else encoding.clip_buckets(options, model.config)
        fps = options.fps or (model.config.fps if model else USUAL_FPS)
        settings = self._settings(model, fps)
        if not options.report_only:
            check_unchanged(options, settings)
        entries, problems = list_entries(options.source, cache=work / "source")
        say(
            f"{len(entries)} clips in {options.source}" + (f"; {len(problems)} more cannot be used" if problems else "")
        )
        keys = scoring.entry_keys(entries)
        store = self._score(entries, keys, settings["score"])
        if options.report_only or model is None or buckets is None:
            return self._preview(model, entries, problems, keys, store, fps)
        with replacing(options.output / "dropped.jsonl") as partial, partial.open("w", encoding="utf-8") as dropped:
            selection = select(options, fps, entries, problems, keys, store, dropped)
            records = self._encode(model, fps, buckets, settings, selection, entries, keys, store)
            counts = _add_left_out(selection.counts, records, dropped)
        cut = _tell_cut_captions(model, selection, entries, options.output)
        return self._finish(model, fps, buckets, settings, selection, records, counts, cut)

    def _settings(self, model: encoding.ModelFacts | None, fps: float) -> dict[str, dict[str, Any]]:
        """What the results of each step depend on."""
        options = self.options
        clip = None
        if options.clip_model is not None and options.clip_weights is not None:
            from .clip_score import clip_identity

            clip = clip_identity(options.clip_model, options.clip_weights)
        settings = {"score": score_settings(options, clip), "select": select_settings(options)}
        if model is not None:
            size = options.size or model.config.size
            facts = {"size": size, "one_size": not options.buckets, "fps": fps}
            facts |= {"shard_clips": options.shard_clips, "dtype": options.dtype}
            vae = {name: model.manifest()["vae"][name] for name in ("fingerprint", "scale", "shift")}
            settings["encode"] = {**facts, "vae": vae, "text": model.text, "version": encoding.VERSION}
        return json.loads(json.dumps(settings))

    def _score(self, entries: Sequence[Entry], keys: np.ndarray, settings: Mapping[str, Any]) -> scoring.ScoreStore:
        options, work = self.options, self.options.output / "work"
        folder = work / f"scores-{_hash([settings, scoring.VERSION])}"
        _make_ready(folder)
        scoring.forget_passing(folder)
        scoring.gather_scores(folder)
        tasks = scoring.plan_scores(folder, entries, keys, work / "to-score.jsonl")
        worker = {
            "cut_threshold": options.cut_threshold,
            "clip_frames": options.clip_frames,
            "clip_model": _as_text(options.clip_model),
            "clip_weights": _as_text(options.clip_weights),
            "dtype": options.dtype,
        }
        engine = self.engine if options.clip_model is not None else replace(self.engine, device="cpu")
        path, total = work / "to-score.jsonl", len(np.unique(keys))

        def gather() -> None:
            scoring.gather_scores(folder)
            scoring.gather_scores(folder / scoring.PASSING)

        self._work("scoring", engine, scoring.Scorer, worker, path, tasks, total, gather)
        if any((folder / scoring.PASSING).glob("*.jsonl")):
            say(TRIED_AGAIN)
        return scoring.ScoreStore(folder)

    def _encode(
        self,
        model: encoding.ModelFacts,
        fps: float,
        buckets: Sequence[tuple[int, int]],
        settings: dict[str, dict[str, Any]],
        selection: Selection,
        entries: Sequence[Entry],
        keys: np.ndarray,
        store: scoring.ScoreStore,
    ) -> list[ShardRecord]:
        options, work = self.options, self.options.output / "work"
        folder = options.output / SHARDS
        if not len(selection.kept):
            return []  # nothing is removed: perhaps a drive is missing
        _make_ready(folder)
        path = work / "to-encode.jsonl"
        shards, tasks = encoding.plan_shards(
            options.output, settings["encode"], options, fps, buckets, selection, entries, keys, path
        )
        names = {target.stem for target, _ in shards}
        stale = [path for path in folder.glob("clips-*") if path.stem not in names]
        if not options.redo:
            check_still_there(options, [*stale, *(Path(task.target) for task in tasks)], entries, store.records(keys))
        if tasks or stale:
            # Without these the folder is unfinished until everything fits together again.
            _remove([options.output / MANIFEST, options.output / INDEX, *stale])
        with replacing(work / "settings.json") as partial:
            partial.write_text(json.dumps(settings), encoding="utf-8")
        worker = {
            "checkpoint": _as_text(options.checkpoint),
            "base": _as_text(options.base),
            "preset": options.preset,
            "dtype": options.dtype,
            "fps": fps,
        }
        self._work("encoding", self.engine, encoding.Encoder, worker, path, tasks, len(selection.kept))
        records = [_record(target, key) for target, key in shards]
        if any(record.passing for record in records):
            say(TRIED_AGAIN)
        return records

    def _work(
        self,
        label: str,
        engine: Engine,
        build: Any,
        worker: dict[str, Any],
        path: Path,
        tasks: list[Task],
        total: int,
        gather: Callable[[], None] | None = None,
    ) -> None:
        """Do the tasks. `gather` merges the files that they make, now and then and at the end."""
        left = sum(task.count for task in tasks)
        if left < total:
            say(f"{label}: {total - left} of {total} clips are there already")
        if not tasks:
            return
        with _bar(label, total, total - left) as bar:
            for number, count in enumerate(run_tasks(engine, build, worker, path, tasks), 1):
                bar.update(count)
                if gather is not None and (number % GATHERED_TASKS == 0 or number == len(tasks)):
                    gather()

    def _preview(
        self,
        model: encoding.ModelFacts | None,
        entries: Sequence[Entry],
        problems: Sequence[str],
        keys: np.ndarray,
        store: scoring.ScoreStore,
        fps: float,
    ) -> list[Path]:
        """Write the report of --report-only, under names of its own."""
        from .report import write_report

        output = self.options.output
        with replacing(output / "preview-dropped.jsonl") as partial, partial.open("w", encoding="utf-8") as dropped:
            selection = select(self.options, fps, entries, problems, keys, store, dropped)
        say(_summary(len(selection.kept), selection.counts))
        cut = 0 if model is None else _tell_cut_captions(model, selection, entries, output, "preview-")
        facts = {"captions_cut": cut} if cut else {}
        paths = write_report(output / "preview", self.options, selection, selection.counts, facts)
        return [*paths, output / "preview-dropped.jsonl"]

    def _finish(
        self,
        model: encoding.ModelFacts,
        fps: float,
        buckets: Sequence[tuple[int, int]],
        settings: Mapping[str, Any],
        selection: Selection,
        records: Sequence[ShardRecord],
        counts: Counter[str],
        cut: int,
    ) -> list[Path]:
        from .report import write_report

        output, kept = self.options.output, sum(len(record.names) for record in records)
        frames = sum(sum(record.rows["frames"]) for record in records)
        facts = {"frames": frames, "hours": round(frames / fps / 3600, 3), "shards": len(records)}
        facts |= {"captions_cut": cut} if cut else {}
        report = write_report(output / "report", self.options, selection, counts, facts)
        say(_summary(kept, counts))
        if not kept:
            raise ValueError(f"not one clip was kept; {report[1]} and {output / 'dropped.jsonl'} say why")
        manifest = {
            "source": self.options.source,
            "clips": kept,
            "frames": frames,
            "considered": selection.considered,
            "dropped": dict(sorted(counts.items())),
            "captions_cut": cut,
            "fps": fps,
            "buckets": buckets,
            **model.manifest(),
            "settings": settings,
        }
        write_dataset(output, manifest, records, model.null_context)
        return [output / MANIFEST, *report]


def _tell_cut_captions(
    model: encoding.ModelFacts, selection: Selection, entries: Sequence[Entry], folder: Path, prefix: str = ""
) -> int:
    """Warn about captions of kept clips that are longer than the model's text encoder reads. Returns how many there
    are."""
    clips = (clip_entry(selection.clips, entries, clip) for clip in selection.kept.tolist())
    lines = cut_captions(((clip.name, clip.caption) for clip in clips), model.config.text)
    warning = note_cut_captions(lines, folder, model.config.text, prefix)
    if warning:
        say(warning)
    return len(lines)


def _engine(options: PrepareOptions) -> Engine:
    name = options.engine
    if name == "auto":
        name = "ray" if options.workers > 1 or options.ray_address else "plain"
    if name == "plain" and options.workers > 1:
        raise ValueError(
            f"--engine plain has one worker, not {options.workers}; leave --workers out, or use --engine ray"
        )
    if name == "plain":
        pick_device(options.device)
    engine = Engine(name, options.workers, options.ray_address, options.device, options.gpus_per_worker)
    check_installed(engine)
    return engine


def _add_left_out(counts: Counter[str], records: Sequence[ShardRecord], dropped: IO[str]) -> Counter[str]:
    """Count the clips that turned out to be broken only when they were encoded."""
    left_out = [pair for record in records for pair in record.left_out]
    for name, reason in left_out:
        drop_line(dropped, name, "broken", reason)
    return counts + Counter({"broken": len(left_out)})


def _record(target: Path, key: str) -> ShardRecord:
    record = read_record(target, key)
    if record is None:
        raise ValueError(f"{target} has changed since it was written just now; is another run using the same OUT?")
    return record


def _summary(kept: int, counts: Mapping[str, int]) -> str:
    reasons = ", ".join(
        f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda pair: -pair[1]) if count
    )
    return f"kept {kept} of {kept + sum(counts.values())} clips" + (f"; dropped: {reasons}" if reasons else "")


def _hash(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _as_text(value: str | Path | None) -> str | None:
    """A path that means the same in another process, as text."""
    if value is None:
        return None
    return str(Path(value).absolute()) if Path(value).exists() else str(value)


def _make_ready(folder: Path) -> None:
    """Make the folder, and remove what killed workers left in it."""
    folder.mkdir(parents=True, exist_ok=True)
    _remove(path for path in folder.iterdir() if LEFT_BEHIND.fullmatch(path.name))


def _remove(paths: Any) -> None:
    for path in list(paths):
        with suppress(FileNotFoundError):
            path.unlink()


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Raises ValueError if another run is working in the folder, or if the folder cannot be made."""
    from filelock import Timeout

    from ..files.file_locks import acquire

    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; OUT must be a folder, new or from an earlier run")
    try:
        (output / "work").mkdir(parents=True, exist_ok=True)
        lock = acquire(output / "work/lock", timeout=0)
    except Timeout:
        raise ValueError(f"another artv prepare is running in {output}; wait for it, or stop it") from None
    except OSError as error:
        raise ValueError(f"cannot write in {output}: {(error.strerror or str(error)).lower()}") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _stop_is_an_interrupt() -> Iterator[None]:
    """Inside the block SIGTERM acts like Ctrl-C."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bar(label: str, total: int, done: int) -> tqdm:
    """A progress bar that updates often on a terminal and rarely in a log."""
    from tqdm import tqdm

    often = sys.stderr.isatty()
    interval = {"mininterval": 0.5} if often else {"mininterval": 60, "maxinterval": 600}
    return tqdm(total=total, initial=done, desc=label, unit="clip", file=sys.stderr, dynamic_ncols=often, **interval)

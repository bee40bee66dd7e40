"""Quantising a whole model into a folder: planned, resumable, and there all at once or not at all.

    DST.partial/    files at their full size, and a journal of the tensors in them that are finished
    DST/            what it is renamed to when all is written, checked and on the disk

A job that was killed goes on when it is started again: the journal says which job it was, and the
checksums in it whether the tensors are as they were written.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tilus import __version__, dtypes
from tilus.dtypes import DType
from tilus.errors import TilusValueError
from tilus.kernels.quantized import GROUPS, QuantizedWeight, Scheme
from tilus.llm.checkpoints import Checkpoint, open_checkpoint, tilus_format
from tilus.llm.checkpoints.limits import listed, product, shown
from tilus.llm.checkpoints.tilus_format import DESCRIPTION, VERSION, Entry
from tilus.llm.checkpoints.tilus_writer import SHARD_BYTES, Writer, entry_bytes, sync
from tilus.llm.quantize.journal import Journal
from tilus.llm.quantize.rtn import quantize_rtn, squared_errors

JOURNAL = "journal.jsonl"
_LINE = ("name", "crc32", "squared_error", "squared", "again")  # what a line of it says of a tensor
SPARE = 64 << 20  # bytes of disk that must stay free

Progress: TypeAlias = Callable[[int, int, str], None]  # weights done, of how many, the next tensor


@dataclass(frozen=True)
class Settings:
    """How a model is quantised.

    Args:
        weights: the element type of the codes.
        group_size: neighbours that share a scale; 0: whole rows. Rows that are no multiple of it
            have the next smaller size that divides them, or one scale.
        scales: their type.
        zero_point: as in `quantize_rtn`.
        clip_search: look for better scales than the plain ones.
        keep: patterns (`*.down_proj.weight`) of the tensors that stay as they are.
    """

    weights: DType
    group_size: int = 128
    scales: DType = dtypes.f16
    zero_point: bool | Literal["float"] | None = None
    clip_search: bool = True
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Scheme.of(self.weights, self.scales, self.zero_point)
        if self.group_size not in (0, *GROUPS):
            raise TilusValueError(
                f"`group_size` is {self.group_size}; it is one of {GROUPS}, or 0 for whole rows"
            )

    def described(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        return {
            "weights": str(self.weights),
            "group_size": self.group_size,
            "scales": str(self.scales),
            "zero_point": self.zero_point,
            "clip_search": self.clip_search,
            "keep": list(self.keep),
        }

    def group_for(self, k: int) -> int:
        """The group size for rows of k weights."""
        return max((g for g in GROUPS if g <= self.group_size and k % g == 0), default=0)


@dataclass(frozen=True)
class Row:
    """What became of a tensor."""

    entry: Entry
    crc: int
    squared_error: float | None = None  # None: it is as it was
    squared: float = 0.0
    again: bool = False  # it was quantised before

    @property
    def nbytes(self) -> int:
        """Bytes it has now."""
        return entry_bytes(self.entry)

    @property
    def error(self) -> float | None:
        """The root mean square of the error, relative to that of the weights."""
        if self.squared_error is None:
            return None
        return math.sqrt(self.squared_error / self.squared) if self.squared else 0.0

    def described(self) -> dict[str, Any]:
        """The row as JSON has it."""
        shape = {"name": self.entry.name, **self.entry.described()}
        return {**shape, "bytes": self.nbytes, "error": self.error}


@dataclass
class Report:
    """What a job did."""

    destination: Path
    settings: Settings
    rows: list[Row] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    resumed: int = 0  # tensors that were finished before
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(row.nbytes for row in self.rows)

    @property
    def bits(self) -> float:
        """Bits of a quantised weight, scales and zero points included."""
        done = [row for row in self.rows if row.squared_error is not None]
        weights = sum(product(row.entry.shape) for row in done)
        return 8 * sum(row.nbytes for row in done) / weights if weights else 0.0

    @property
    def error(self) -> float:
        """The relative root mean square error of all quantised weights together."""
        error = sum(row.squared_error or 0.0 for row in self.rows)
        squared = sum(row.squared for row in self.rows)
        return math.sqrt(error / squared) if squared else 0.0

    def described(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {
            "destination": str(self.destination),
            "settings": self.settings.described(),
            "bytes": self.nbytes,
            "bits_per_weight": self.bits,
            "error": self.error,
            "seconds": self.seconds,
            "resumed": self.resumed,
            "notices": self.notices,
            "tensors": [row.described() for row in self.rows],
        }


def quantize(
    source: str | Path,
    destination: str | Path,
    settings: Settings,
    *,
    force: bool = False,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Report:
    """Quantise a model, or finish what an earlier call began.

    Args:
        source: what `open_checkpoint` reads.
        destination: a folder that is not there yet.
        settings: how.
        force: replace a model at the destination, and an unfinished one of other settings.
        progress: called before each tensor.
        shard_bytes: of a file, unless a single tensor has more.

    Raises:
        TilusValueError: the source is damaged or holds NaN, or the destination is taken.
    """
    began = time.perf_counter()
    place, target = Path(source).expanduser(), Path(destination).expanduser().absolute()
    _check_target(place, target, force)
    checkpoint = open_checkpoint(place)
    plan = Plan.of(checkpoint, settings)
    report = Report(target, settings, notices=list(plan.notices))
    partial = target.with_name(f"{target.name}.partial")
    _make(partial)
    job = {
        "format": VERSION,
        "program": __version__,
        "source": _fingerprint(place),
        "shard_bytes": shard_bytes,
        "settings": settings.described(),
    }
    with Journal(partial / JOURNAL) as journal:
        writer = Writer(partial, plan.entries, shard_bytes)
        finished = _resumed(journal, job, partial, writer, force)
        report.resumed = len(finished)
        _check_space(partial, [e for e in plan.entries if e.name not in finished])
        total, done = sum(product(e.shape) for e in plan.entries), 0
        for entry in plan.entries:
            row = finished.get(entry.name)
            if row is None:
                if progress is not None:
                    progress(done, total, entry.name)
                row = _written(checkpoint, entry, settings, entry.name in plan.changed, writer)
                journal.add(_line(row))
            report.rows.append(row)
            done += product(entry.shape)
        if again := sum(row.again for row in report.rows):
            report.notices.append(f"tensors that were quantised before lose a second time: {again}")
        said = {row.entry.name: {"crc32": row.crc, "error": row.error} for row in report.rows}
        made = {"program": f"tilus {__version__}", **settings.described(), "error": report.error}
        report.notices += writer.finish(checkpoint.config, checkpoint.tokenizer, said, made)
        tilus_format.open(partial)
        _put_in_place(partial, target)
    report.seconds = time.perf_counter() - began
    return report


@dataclass(frozen=True)
class Plan:
    """What will be written: every tensor, which of them are quantised, and what to know of it."""

    entries: tuple[Entry, ...]
    changed: frozenset[str]
    notices: tuple[str, ...]

    @staticmethod
    def of(checkpoint: Checkpoint, settings: Settings) -> Plan:
        """The plan for a model: its matrices are quantised, but for those that are kept."""
        for name in checkpoint.names:
            if not tilus_format.is_plain(name):
                raise TilusValueError(f"tensor {shown(name)} cannot be stored under this name")
        for pattern in settings.keep:
            if not any(fnmatchcase(name, pattern) for name in checkpoint.names):
                raise TilusValueError(f"`keep`: no tensor's name matches {shown(pattern)}")
        matrices = [n for n in checkpoint.names if len(checkpoint.shape(n)) == 2]
        matrices = [n for n in matrices if n.endswith(".weight")]
        changed = frozenset(
            n for n in matrices if not any(fnmatchcase(n, pattern) for pattern in settings.keep)
        )
        if not changed:
            raise TilusValueError("there is no matrix to quantise: all are kept, or there are none")
        entries = []
        for name in checkpoint.names:
            if name in changed:
                entries.append(_planned(name, checkpoint.shape(name), settings))
            else:
                entries.append(Entry.of(name, checkpoint.load(name)))
        notices = _group_notices([e for e in entries if e.name in changed], settings)
        large = [e.name for e in entries if len(e.shape) > 2]
        if large:
            notices.append(f"{listed(large)}: only matrices are quantised, so these stay")
        return Plan(tuple(entries), changed, tuple(notices))


def _planned(name: str, shape: tuple[int, ...], settings: Settings) -> Entry:
    scheme = Scheme.of(settings.weights, settings.scales, settings.zero_point)
    group = settings.group_for(shape[1])
    return Entry(name, shape, scheme.codes, scheme.scales, scheme.zeros, group)


def _group_notices(entries: Sequence[Entry], settings: Settings) -> list[str]:
    """What to know of rows that the group size does not divide."""
    others = Counter(
        (e.shape[1], e.group_size) for e in entries if e.group_size != settings.group_size
    )
    return [
        f"tensors with rows of {k}, no multiple of {settings.group_size}, have "
        + (f"groups of {group}: {count}" if group else f"one scale for each row: {count}")
        for (k, group), count in sorted(others.items())
    ]


def _check_target(place: Path, target: Path, force: bool) -> None:
    """Refuse a destination that is taken, or that must not be replaced."""
    home = place.resolve()
    if target.resolve() == home or target.resolve() in home.parents:
        raise TilusValueError(f"{target} is where the source is; choose another destination")
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise TilusValueError(f"{target} is there and is no folder; choose another destination")
    if not any(target.iterdir()):
        return
    if not force:
        raise TilusValueError(f"{target} is there already; --force replaces it")
    if not (target / DESCRIPTION).is_file():
        raise TilusValueError(f"{target} holds something else, which --force does not replace")
    old = _old(target)
    if os.path.lexists(old):
        raise TilusValueError(f"{old} is in the way; move or delete it")


def _old(target: Path) -> Path:
    return target.with_name(f"{target.name}.old")


def _make(partial: Path) -> None:
    """Make the folder to write in, unless it is there already."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(partial):
        ours = partial.is_dir() and not partial.is_symlink()
        if not ours or (any(partial.iterdir()) and not (partial / JOURNAL).is_file()):
            raise TilusValueError(f"{partial} is in the way; move or delete it")
    partial.mkdir(exist_ok=True)


def _fingerprint(place: Path) -> str:
    """A hash of the names, sizes and times of a model's files."""
    files = [place]
    if place.is_dir():
        files = sorted(p for p in place.iterdir() if p.suffix in (".safetensors", ".json"))
    stats = [(path.name, path.stat()) for path in files]
    text = json.dumps([(name, s.st_size, s.st_mtime_ns) for name, s in stats])
    return hashlib.sha256(text.encode()).hexdigest()


def _resumed(
    journal: Journal, job: dict[str, Any], partial: Path, writer: Writer, force: bool
) -> dict[str, Row]:
    """What an earlier call has finished of this job."""
    if journal.job != job:
        if journal.job is not None and not force:
            raise TilusValueError(
                f"{partial} is an unfinished model {_difference(journal.job, job)}; delete it, or "
                "--force begins anew"
            )
        for path in partial.iterdir():
            if path.name != JOURNAL:
                path.unlink()
        journal.begin(job)
    writer.prepare()
    found: dict[str, Row] = {}
    for line in journal.done:
        values: list[Any] = [line.get(key) for key in _LINE]
        entry = writer.entries.get(str(values[0]))
        if entry is not None and writer.checksum(entry.name) == values[1]:
            found[entry.name] = Row(entry, *values[1:])
    return found


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """In what two jobs differ, for an error."""
    before, now = old.get("settings", {}), new["settings"]
    settings = [f"{key} {before.get(key)}" for key in now if before.get(key) != now[key]]
    if settings:
        return f"with other settings ({', '.join(settings)})"
    what = [key for key in ("source", "program", "format") if old.get(key) != new[key]]
    return f"of another {what[0]}" if what else "in files of another size"


def _line(row: Row) -> dict[str, Any]:
    values = (row.entry.name, row.crc, row.squared_error, row.squared, row.again)
    return dict(zip(_LINE, values, strict=True))


def _check_space(partial: Path, entries: Sequence[Entry]) -> None:
    need = sum(map(entry_bytes, entries))
    free = shutil.disk_usage(partial).free
    if need + SPARE > free:
        raise TilusValueError(
            f"{partial.parent} has {free / 1e9:.2f} GB free, and {need / 1e9:.2f} GB are to be "
            "written; make room or choose another destination"
        )


def _written(
    checkpoint: Checkpoint, entry: Entry, settings: Settings, change: bool, writer: Writer
) -> Row:
    """Quantise a tensor, or keep it, and write it."""
    tensor = checkpoint.load(entry.name)
    if not change:
        return Row(entry, writer.put(entry.name, entry.bytes_of(tensor)))
    try:
        made = quantize_rtn(
            tensor,
            settings.weights,
            entry.group_size,
            settings.scales,
            settings.clip_search,
            settings.zero_point,
        )
    except TilusValueError as error:
        message = error.first.message.replace("`weight`", f"tensor {shown(entry.name)}")
        raise TilusValueError(message) from error
    squares = squared_errors(tensor, made)
    crc = writer.put(entry.name, entry.bytes_of(made))
    return Row(entry, crc, *squares, isinstance(tensor, QuantizedWeight))


def _put_in_place(partial: Path, target: Path) -> None:
    """Rename the finished folder; what it replaces goes when it is there."""
    replaced = _old(target) if target.exists() and any(target.iterdir()) else None
    if replaced is not None:
        os.rename(target, replaced)
    os.rename(partial, target)
    sync(target.parent)
    (target / JOURNAL).unlink()
    if replaced is not None:
        shutil.rmtree(replaced)

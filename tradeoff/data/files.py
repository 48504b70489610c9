"""SFT and preference rows from files, the Hugging Face hub and Python, checked one by one.

A row that cannot be used gives an `InputError` with file, row, field, value and remedy. The error
is raised, or collected with ``skip_bad=True``. Nothing is ever unpickled or executed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from tradeoff.data._labels import desired_row, labelled_or_pair, pair_up
from tradeoff.data._prompts import responses_alone
from tradeoff.data.layouts import PREFERENCE_COLUMNS, SFT_COLUMNS, preference_row, sft_row
from tradeoff.data.record import Record
from tradeoff.data.rows import PreferenceRow, SftRow, as_text
from tradeoff.data.sample import Sample, sampled
from tradeoff.data.sources import Place, Source, parts
from tradeoff.display import Shown
from tradeoff.errors import InputError
from tradeoff.settings import Count, fit

if TYPE_CHECKING:
    import pandas as pd

R = TypeVar("R")


@dataclass(frozen=True, repr=False)
class Rows(Shown, Sequence[R], Generic[R]):
    """The usable rows of one source, as a sequence.

    Attributes
    ----------
    rows
        The rows, in the order of the source.
    source
        Where they were read.
    dropped
        The errors of the rows that were left out.
    ignored
        Columns that hold something but are not used, with the number of their rows.
    notes
        Changes that were made to rows on reading, with the number of rows.
    identities
        Identities of the source's parts; two names of one place have one identity.
    skip_bad
        Whether bad rows are left out, here and at tokenisation.
    left
        Number of usable rows that were not drawn into the requested sample.
    """

    rows: Sequence[R]
    source: str
    dropped: tuple[InputError, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    identities: tuple[str, ...] = ()
    skip_bad: bool = False
    left: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[R, ...]: ...
    def __getitem__(self, index: int | slice) -> R | tuple[R, ...]:
        return tuple(self.rows[index]) if isinstance(index, slice) else self.rows[index]

    def table(self) -> pd.DataFrame:
        """The rows as a table: conversations as text (`as_text`), other fields unchanged."""
        import pandas as pd  # only tables need pandas

        return pd.DataFrame([_fields(row) for row in self.rows])

    def remarks(self, without: Collection[str] = ()) -> list[str]:
        """Notes about these rows: ignored columns, and changes that were made to rows.

        Parameters
        ----------
        without
            Notes that are left out.
        """
        ignored = ", ".join(f"{name} ({count})" for name, count in self.ignored.items())
        found = [_counted(count, n) for n, count in self.notes.items() if n not in without]
        found += [f"ignored columns: {ignored}"] if ignored else []
        if self.left:
            found.append(f"{len(self)} of {len(self) + self.left} usable rows were drawn")
        return [f"{self.source}: {text}" for text in found]

    def __repr__(self) -> str:
        kind = type(self.rows[0]).__name__ if self.rows else "row"
        ignored = f", ignored columns: {', '.join(self.ignored)}" if self.ignored else ""
        about = f"{len(self.dropped)} dropped{ignored}"
        return f"<{len(self)} x {kind} from {self.source!r}, {about}>"


def _counted(count: int, note: str) -> str:
    """A note with its count; the first word of a note is a plural."""
    things, _, rest = note.partition(" ")
    return f"{count} {things.removesuffix('s') if count == 1 else things} {rest}"


def _fields(row: Any) -> dict[str, object]:
    columns = {name: value for name, value in vars(row).items() if name != "origin"}
    found = {k: as_text(v) if isinstance(v, tuple) else v for k, v in columns.items()}
    for name in ("extras", "margin"):
        if not found.get(name, True) and found[name] != 0:
            del found[name]
    return found


def read_sft(
    source: Source,
    *,
    skip_bad: bool = False,
    limit: int | None = None,
    split: str | None = None,
    default_split: str | None = "train",
    columns: Mapping[str, str] | None = None,
    use_labels: bool = False,
    sample: int | None = None,
    seed: int = 0,
    folder: str | PathLike[str] | None = None,
) -> Rows[SftRow]:
    """Read demonstrations in any of the layouts of `tradeoff.data.layouts`.

    Parameters
    ----------
    source
        A file in UTF-8 (``.jsonl``, ``.json``, ``.csv`` and ``.tsv``, also with ``.gz`` or
        ``.zst``; ``.parquet``, ``.arrow``), a pattern such as ``"part-*.jsonl"``, a folder that
        ``save_to_disk`` of datasets has written, a hub name ``"owner/name[:config]@split"``;
        several of these in a list or between commas; or rows: mappings, a ``Dataset``, a
        ``DataFrame``.
    skip_bad
        Collect the errors of bad rows in `Rows.dropped` and go on; otherwise raise the first.
    limit
        Stop after this many usable rows.
    split
        The split of a hub name or of a saved folder, if its name has none; an error for a file.
    default_split
        The split of a hub name that names none; ``None`` makes such a name an error.
    columns
        Names of columns in the source, by the names of a layout: ``{"completion": "answer"}``.
    use_labels
        Take the desired responses of unpaired rows with a label; otherwise such rows are errors.
    sample, seed
        Check every row, and keep this many, drawn uniformly with this seed. Only the sample is then
        held in memory.
    folder
        Keep the rows on disk, in a file of this folder, for sets larger than memory. The file is
        gone when the process ends.

    Returns
    -------
    Rows[SftRow]
        At least one row.

    Raises
    ------
    InputError
        For a bad row or damaged file unless `skip_bad`; always for a source without usable rows.
    """
    read = read_rows(
        source,
        desired_row if fit(bool, use_labels, "use_labels") else sft_row,
        SFT_COLUMNS,
        skip_bad=skip_bad,
        limit=limit,
        split=split,
        default_split=default_split,
        rename=columns,
        sample=sample,
        seed=seed,
        folder=folder,
    )
    return _alone(read, read.rows)


def read_preferences(
    source: Source,
    *,
    skip_bad: bool = False,
    limit: int | None = None,
    split: str | None = None,
    default_split: str | None = "train",
    columns: Mapping[str, str] | None = None,
    use_labels: bool = False,
    min_margin: float | None = None,
    sample: int | None = None,
    seed: int = 0,
    folder: str | PathLike[str] | None = None,
) -> Rows[PreferenceRow]:
    """Read preference pairs in any of the layouts of `tradeoff.data.layouts`.

    Parameters
    ----------
    source, skip_bad, limit, split, default_split, columns
        As for `read_sft`.
    use_labels
        Pair the labelled responses of each prompt with each other; otherwise such rows are errors.
    min_margin
        Least margin of a pair, by ``score_chosen`` and ``score_rejected`` or by ``margin``. Pairs
        with a smaller margin are left out.
    sample, seed, folder
        As for `read_sft`; with `use_labels` all rows are held in memory, to be paired up.

    Returns
    -------
    Rows[PreferenceRow]
        At least one row.

    Raises
    ------
    InputError
        As for `read_sft`; with `min_margin` also for a pair without scores.
    """
    fit(float | None, min_margin, "min_margin")
    read = read_rows(
        source,
        _Compared(fit(bool, use_labels, "use_labels"), min_margin),
        PREFERENCE_COLUMNS,
        skip_bad=skip_bad,
        limit=limit,
        split=split,
        default_split=default_split,
        rename=columns,
        sample=None if use_labels else sample,
        seed=seed,
        folder=None if use_labels else folder,
    )
    if not use_labels:
        return _alone(read, read.rows)
    pairs, alone = pair_up(read.rows)
    if not pairs:
        remedy = "Give desired and undesired responses to the same prompts."
        raise InputError("no labelled row has a partner", file=read.source, remedy=remedy)
    if alone:
        notes = {**read.notes, "labelled rows left out, without a partner for their prompt": alone}
        read = replace(read, notes=notes)
    drawn = sampled(pairs, sample, seed)
    return _alone(replace(read, left=read.left + len(pairs) - len(drawn)), drawn)


def _alone(read: Rows[Any], rows: Sequence[Any]) -> Rows[Any]:
    """Remove the prompts that responses repeat."""
    kept, notes, errors = responses_alone(rows)
    if errors and (not read.skip_bad or not kept):
        raise errors[0]
    return replace(read, rows=kept, notes={**read.notes, **notes}, dropped=(*read.dropped, *errors))


@dataclass(frozen=True)
class _Compared:
    """Reader of pairs, or of labelled rows, that leaves out pairs with a small margin."""

    use_labels: bool
    min_margin: float | None

    def __call__(self, record: Record) -> Any:
        row = labelled_or_pair(record) if self.use_labels else preference_row(record)
        if self.min_margin is None or not isinstance(row, PreferenceRow):
            return row
        if row.margin is None:
            remedy = "Give score_chosen and score_rejected, or margin; or leave min_margin out."
            raise record.error("the pair has no scores", remedy, value=list(record.fields))
        if row.margin >= self.min_margin:
            return row
        record.notes[f"pairs left out whose margin is below {self.min_margin:g}"] += 1
        return None


def read_rows(
    source: Source,
    check: Callable[[Record], R | None],
    columns: Collection[str],
    *,
    skip_bad: bool = False,
    limit: int | None = None,
    split: str | None = None,
    default_split: str | None = "train",
    rename: Mapping[str, str] | None = None,
    sample: int | None = None,
    seed: int = 0,
    folder: str | PathLike[str] | None = None,
) -> Rows[R]:
    """Read rows of any kind; the other parameters are as for `read_sft`.

    Parameters
    ----------
    check
        Makes a row of a record, returns None for one to leave out, or raises an `InputError`.
    columns
        Columns that `check` looks at; other columns of a table are not read.
    rename
        The `columns` of `read_sft`.
    """
    fit(Count | None, limit, "limit")
    fit(bool, skip_bad, "skip_bad")
    own = _renaming(rename, columns)
    found = parts(source, split, default_split)
    rows: Sample[R] = Sample(sample, seed, folder)
    dropped: list[InputError] = []
    ignored: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for record in _records(found, columns, own):
        try:
            if isinstance(record, InputError):
                raise record
            row = check(record)
            if row is not None:
                rows.add(row)
                ignored.update(record.ignored())
            if record.notes:
                notes.update(record.notes)
        except InputError as error:
            if not skip_bad:
                raise
            dropped.append(error)
        if rows.seen == limit:
            break
    name = ", ".join(part.name for part in found)
    if not rows.seen:
        first = f"; the first error is: {dropped[0]}".removesuffix(".") if dropped else ""
        remedy = "Give a source with at least one good row."
        raise InputError(f"no usable row{first}", file=name, remedy=remedy)
    places = tuple(part.identity for part in found if part.identity)
    left = rows.seen - len(rows)
    return Rows(rows.rows(), name, tuple(dropped), ignored, notes, places, skip_bad, left)


def as_sft(rows: Any, **options: Any) -> Sequence[SftRow]:
    """Return demonstrations as they are, or read them from a source by `read_sft`.

    Raises
    ------
    InputError
        If rows are of another kind, or cannot be read.
    """
    return _checked(rows, SftRow) if _are_rows(rows) else read_sft(rows, **options)


def as_preferences(rows: Any, **options: Any) -> Sequence[PreferenceRow]:
    """Return pairs as they are, or read them by `read_preferences`; errors as for `as_sft`."""
    if _are_rows(rows):
        return _checked(rows, PreferenceRow)
    return read_preferences(rows, **options)


def _are_rows(rows: Any) -> bool:
    """Whether these are already rows, of any kind."""
    if isinstance(rows, Rows):
        return True
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        return False
    return not len(rows) or not isinstance(rows[0], Mapping | str)


def _checked(rows: Sequence[Any], kind: type) -> Sequence[Any]:
    for place, row in enumerate(rows):
        if not isinstance(row, kind):
            raise InputError(
                f"this is not a {kind.__name__}",
                row=place + 1,
                value=row,
                remedy="Read rows by tradeoff.read_sft and tradeoff.read_preferences.",
            )
    return rows


def _records(
    found: Iterable[Place], columns: Collection[str], own: Mapping[str, str]
) -> Iterable[Record | InputError]:
    wanted = (set(columns) - own.keys()) | set(own.values())
    for part in found:
        for record in part.records(wanted):
            yield record if isinstance(record, InputError) or not own else _renamed(record, own)


def _renamed(record: Record, own: Mapping[str, str]) -> Record:
    """Rename the columns of a record to the names of the layouts."""
    taken = {*own, *own.values()}
    fields = {name: value for name, value in record.fields.items() if name not in taken}
    fields |= {
        name: record.fields[theirs] for name, theirs in own.items() if theirs in record.fields
    }
    return replace(record, fields=fields, renamed=own)


def _renaming(rename: Mapping[str, str] | None, columns: Collection[str]) -> Mapping[str, str]:
    fit(dict[str, str] | None, rename, "columns")
    for name in rename or {}:
        if name not in columns:
            remedy = f"Map one of {', '.join(sorted(columns))}."
            raise InputError(
                "no layout has this column", field="columns", value=name, remedy=remedy
            )
    return rename or {}

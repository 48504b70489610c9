"""Where rows come from: files, folders, patterns, hub names and Python objects.

A source has an identity, which shows whether training and held-out rows have one source.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from tradeoff.data import _lines, _tables
from tradeoff.data._lines import Found
from tradeoff.data.record import Record
from tradeoff.errors import InputError

Source = str | PathLike[str] | Iterable[Any]
"""A name, several names, or the rows themselves."""
_PACKED = ("", ".gz", ".zst")
_READERS: dict[str, Callable[[Path, Collection[str]], Found]] = {
    **{
        f"{kind}{end}": lambda path, _: _lines.json_lines(path)
        for kind in (".jsonl", ".ndjson")
        for end in _PACKED
    },
    **{f".json{end}": lambda path, _: _lines.json_list(path) for end in _PACKED},
    **{f".csv{end}": lambda path, _: _lines.separated(path, ",") for end in _PACKED},
    **{f".tsv{end}": lambda path, _: _lines.separated(path, "\t") for end in _PACKED},
    ".parquet": _tables.parquet,
    ".arrow": _tables.arrow,
}
SUFFIXES = ".jsonl, .json, .csv and .tsv (also .gz or .zst), .parquet, .arrow"
_HUB = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(:(?P<config>[\w.-]+))?(@(?P<split>.+))?")
_HOW = f"Give a file ({SUFFIXES}), a folder of save_to_disk, or owner/name[:config]@split."


@dataclass(frozen=True)
class Place:
    """One file, folder, hub split or object.

    Attributes
    ----------
    name
        Name in messages.
    identity
        Identity of the place, the same under all of its names; ``""`` for an object.
    records
        Yields the rows with the given columns: a record, or an error in its place.
    """

    name: str
    identity: str
    records: Callable[[Collection[str]], Found]


def parts(
    source: Source, split: str | None = None, default_split: str | None = "train"
) -> list[Place]:
    """List the files, folders, hub splits or objects of a source.

    Parameters
    ----------
    source
        A name, a list of names, a text with several names between commas, or rows.
    split
        Split of a hub name or of a folder with splits; the name may also give it after ``@``.
    default_split
        Split of a hub name that names none; None makes such a name an error.

    Raises
    ------
    InputError
        If nothing has this name, or it is of a kind that cannot be read.
    """
    if isinstance(source, str | PathLike):
        return [
            part for name in _names(fspath(source)) for part in _named(name, split, default_split)
        ]
    if isinstance(source, list | tuple) and all(isinstance(x, str | PathLike) for x in source):
        return [part for name in source for part in parts(name, split, default_split)]
    if split is not None:
        remedy = "Give the split itself, such as dataset['train']."
        raise InputError("rows have no splits", field="split", value=split, remedy=remedy)
    return [_object(source)]


def check_apart(train: Any, test: Any, name: str) -> None:
    """Raise an `InputError` if held-out rows have the same source as the training rows.

    Parameters
    ----------
    train, test
        `tradeoff.data.Rows`; anything else has no source to compare.
    name
        The setting that gives `test`.
    """
    trained = {_place(x): x for x in getattr(train, "identities", ())}
    for identity in getattr(test, "identities", ()):
        other = trained.get(_place(identity))
        # Two slices of one split can be apart.
        if other is not None and (other == identity or "[" not in other or "[" not in identity):
            raise InputError(
                "the held-out rows are also trained on",
                field=name,
                value=identity,
                remedy="Give another file or split, such as owner/name@test; or give none, and "
                "a share of the training rows is held out.",
            )


def _place(identity: str) -> str:
    return identity.partition("[")[0] if identity.startswith("hub:") else identity


def _names(text: str) -> list[str]:
    """Split a text at its commas into names, unless the whole text is a name."""
    if "," not in text or Path(text).exists():
        return [text]
    return [name.strip() for name in text.split(",") if name.strip()]


def _named(name: str, split: str | None, default_split: str | None) -> Iterator[Place]:
    path = Path(name)
    try:
        exists = path.exists()
    except (OSError, ValueError):  # a name that is too long, or that has a null
        exists = False
    hub = _HUB.fullmatch(name)
    if not exists and hub and _reader(Path(hub["name"])) is None:
        folder = Path(hub["name"])
        if folder.is_dir() and not hub["config"]:
            yield from _folder(folder, _one_split(name, split, hub["split"], None))
            return
        yield _hub(hub, _one_split(name, split, hub["split"], default_split))
        return
    if not exists and "@" in name and Path(name.rpartition("@")[0]).is_dir():
        folder_name, _, own = name.rpartition("@")
        yield from _folder(Path(folder_name), _one_split(name, split, own, None))
        return
    if not exists and glob.has_magic(name):
        found = sorted(glob.glob(name, recursive=True))
        if not found:
            problem = "there is no such file, and no file matches the pattern"
            raise InputError(problem, file=name, remedy=_HOW)
        for match in found:
            yield from _named(match, split, default_split)
        return
    if path.is_dir():
        yield from _folder(path, split)
        return
    if split is not None:
        remedy = "Leave split out, or give a hub name such as owner/name@split."
        raise InputError("a file has no splits", file=name, value=split, remedy=remedy)
    yield _file(path, exists)


def _one_split(name: str, given: str | None, own: str | None, default: str | None) -> str | None:
    if given is not None and own is not None and given != own:
        remedy = "Name it once."
        raise InputError("two splits are named", file=name, value=given, remedy=remedy)
    return given or own or default


def _file(path: Path, exists: bool) -> Place:
    if not exists:
        raise InputError("there is no such file", file=path, remedy=_HOW)
    read = _reader(path)
    if read is None:
        raise InputError("files of this kind cannot be read", file=path, remedy=_HOW)
    return Place(str(path), str(path.resolve()), lambda wanted: read(path, wanted))


def _reader(path: Path) -> Callable[[Path, Collection[str]], Found] | None:
    name = path.name.lower()
    return next((read for suffix, read in _READERS.items() if name.endswith(suffix)), None)


def _folder(path: Path, split: str | None) -> Iterator[Place]:
    if not any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
        remedy = f"Give its files, such as '{path}/*.parquet', or a folder of save_to_disk."
        raise InputError("this is a directory", file=path, remedy=remedy)
    inner = path / split if split and (path / "dataset_dict.json").exists() else path
    yield Place(
        str(path if split is None else f"{path}@{split}"),
        str(inner.resolve()),
        lambda wanted: _tables.saved_folder(path, wanted, split),
    )


def _hub(hub: re.Match[str], split: str | None) -> Place:
    name, config = hub["name"], hub["config"]
    whole = name if config is None else f"{name}:{config}"
    if split is None:
        raise InputError(
            "held-out rows need the name of their split",
            file=whole,
            remedy=f"Name it: {whole}@test, or another split of the data set.",
        )
    shown = f"{whole}@{split}"
    return Place(shown, f"hub:{shown}", lambda wanted: _hub_records(name, config, split, wanted))


def _hub_records(name: str, config: str | None, split: str, wanted: Collection[str]) -> Found:
    try:
        import datasets
    except ImportError as error:
        problem = "there is no such file, and a hub name needs the package datasets"
        remedy = "Check the path, or install it: pip install datasets."
        raise InputError(problem, file=name, remedy=remedy) from error
    try:
        found = datasets.load_dataset(name, *([config] if config else []), split=split)
    except Exception as error:  # datasets passes on the errors of several network libraries
        problem = f"split {split!r} of this hub data set cannot be loaded: {error}"
        remedy = "Check name, split and network; name the split as owner/name[:config]@split."
        raise InputError(problem, file=name, remedy=remedy) from error
    yield from _object_records(found, f"{name}@{split}", wanted)


# ---------------------------------------------------------------------- objects of Python


def _object(source: Any) -> Place:
    name = type(source).__name__
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        remedy = "Give a name, or rows: mappings, a Dataset such as dataset['train'], a DataFrame."
        if isinstance(source, Mapping):
            remedy += f" This one has the keys {', '.join(map(str, list(source)[:8]))}."
        raise InputError("these are not rows", value=name, remedy=remedy)
    return Place(name, "", lambda wanted: _object_records(source, name, wanted))


def _object_records(source: Any, name: str, wanted: Collection[str]) -> Found:
    rows: Iterable[Any] = source
    columns: list[Any] = []
    unread: tuple[str, ...] = ()
    if hasattr(source, "itertuples"):
        columns = list(source.columns)
        if len(set(columns)) < len(columns):
            remedy = "Give each column a name of its own."
            raise InputError("two columns have one name", file=name, remedy=remedy)
        tuples = source.itertuples(index=False, name=None)
        rows = (dict(zip(columns, cells, strict=True)) for cells in tuples)
    elif hasattr(source, "select_columns") and getattr(source, "column_names", None):
        columns = list(source.column_names)
        kept = [column for column in columns if column in wanted]
        if kept:
            unread = tuple(column for column in columns if column not in wanted)
            rows = source.select_columns(kept)
    for row, fields in enumerate(rows, start=1):
        if not isinstance(fields, Mapping):
            remedy = "Give mappings of column names to values."
            yield InputError(
                "the row is not a mapping", file=name, row=row, value=fields, remedy=remedy
            )
        else:
            yield Record(name, row, {str(key): _plain(x) for key, x in fields.items()}, unread)


def _plain(value: Any) -> Any:
    """Convert the arrays and array scalars in a cell to lists and numbers of Python."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return _plain(value.tolist())
    return None if type(value).__name__ in ("NAType", "NaTType") else value

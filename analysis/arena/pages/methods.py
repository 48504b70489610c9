"""A page for each method of the catalogue: what it is, where it runs, its place on the board."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from analysis.arena import tables, transfer
from analysis.arena.across import SCALES as BOARD_SCALES
from analysis.arena.pages.docstrings import described_presets, sections, settings
from analysis.arena.pages.picture import picture
from analysis.arena.stored import PROBLEMS, family, means, shown
from tradeoff.display import cell
from tradeoff.methods import Method, find, names
from tradeoff.methods.cards import MARKS, Card, cards
from tradeoff.parts import SCALES, Part

WHERE = {"convex": "convex problems", "networks": "small networks", "llm": "language models"}
SEEN = (
    "Ends of its runs at the weights λ = {lams} (orange; means over {replicas} replicas) beside "
    "the certified front (grey) and Mix (dotted), in units of the front's ranges. Ends beyond the "
    "frame are left out."
)


def pages() -> dict[str, str]:
    """Pages in Markdown and pictures in SVG, by file name in one folder."""
    numbers = shown()
    table = tables.board(numbers)
    families = {each: family(numbers, each) for each in PROBLEMS if each in numbers["problems"]}
    rows = {row["name"]: {str(k): v for k, v in row.items()} for row in table.to_dict("records")}
    presets, others = described_presets(), elsewhere()
    found: dict[str, str] = {}
    for name in names():
        row = rows.get(name)
        of_it = [card for card in cards() if card.method == name]
        found[f"{name}.md"] = "\n\n".join(
            [*_head(name, presets), _facts(name, of_it), *_place(numbers, name, row),
             *_elsewhere(name, others)]
        ) + "\n"  # fmt: skip
        if row is not None:
            found[f"{name}.svg"] = picture(numbers["methods"], families, name)
    return found


def _head(name: str, presets: Mapping[str, str]) -> list[str]:
    """Title, description and settings."""
    method = find(name)
    found = [f"# {method.label}"]
    if name in presets:
        found.append(f"{presets[name][:1].upper()}{presets[name][1:]}.")
    for part in parts(method):
        said = sections(type(part))
        found += [text for text in (said[""], said.get("Notes", "")) if text]
        found += _settings(part)
    return found


def parts(method: Method) -> list[Part]:
    """What a method changes; its schedule where that is all."""
    return list(method.changed().values()) or [method.schedule]


def _settings(part: Part) -> list[str]:
    """A table of the settings of a part, with the values that the name stands for."""
    meanings = settings(type(part))
    rows = [
        f"| {each.name} | `{getattr(part, each.name)}` | {_plain(meanings[each.name])} |"
        for each in fields(part)
        if each.name in meanings
    ]
    if not rows:
        return []
    return ["\n".join(["| setting | value | meaning |", "| --- | --- | --- |", *rows])]


def _facts(name: str, found: list[Card]) -> str:
    """A table: how it is called, where it comes from, and where it runs."""
    method = find(name)
    sources = [part.source for part in parts(method) if part.source]
    sources += [card.source for card in found if card.source not in " ".join(sources)]
    rows = {
        "name": f"`{name}`, as in `tradeoff simulate --method {name}`",
        "changes": ", ".join(method.changed()) or "the schedule alone",
        "source": "; ".join(dict.fromkeys(sources)),
    }
    for card in found:
        about = f"{card.name} ({card.kind}). Mark {card.mark}: {MARKS[card.mark]}."
        rows[f"row {card.id}"] = f"{about} {f'Here: {card.note}.' if card.note else ''}".strip()
        if card.stop:
            rows["where it ends"] = f"with exact gradients, {card.stop}"
    for scale in SCALES:
        why = method.unsupported(scale)
        rows[WHERE[scale]] = f"no: {why}" if why else "yes"
    lines = [f"| {key} | {_plain(text)} |" for key, text in rows.items() if text]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _place(numbers: Mapping[str, Any], name: str, row: Mapping[str, Any] | None) -> list[str]:
    """Its place on the stored board, and its picture; or why it has none."""
    title = "## On the board"
    if row is None:
        why = numbers["left_out"].get(name, "it is not on the stored board")
        return [title, f"It has no place on the convex board: {_plain(why)}."]
    kept = {key: row[key] for key in row if key not in ("method", "name", "fills")}
    kept["rank"] = f"{kept.pop('rank')} of {len(numbers['methods'])} ({kept.pop('interval')})"
    order = ["rank", *(key for key in kept if key != "rank")]
    lines = ["| | |", "| --- | --- |", *(f"| {key} | {kept[key]} |" for key in order)]
    seen = SEEN.format(
        lams=", ".join(f"{lam:g}" for lam in numbers["lams"]), replicas=numbers["replicas"]
    )
    return [
        title,
        f"Means over {len(numbers['problems'])} problems and all weights; "
        "[what the columns mean](../howto/arena.md#the-columns).",
        "\n".join(lines),
        f"![The family of {name}]({name}.svg)",
        f"*{seen}*",
    ]


def elsewhere() -> dict[str, dict[str, str]]:
    """Rank and regret by method on the stored boards of other scales, by the name of the scale."""
    found = transfer.boards()
    rows: dict[str, dict[str, str]] = {}
    for scale, board in ((BOARD_SCALES[each], found[each]) for each in found):
        if scale == BOARD_SCALES["board"]:
            continue
        regret = means(board, "regret").mean(axis=1)
        for name, rank in zip(board["methods"], regret.loc[board["methods"]].rank(), strict=True):
            about = f"rank {rank:g} of {len(regret)}, regret {cell(float(regret[name]))}"
            rows.setdefault(name, {})[scale] = about
    return rows


def _elsewhere(name: str, others: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A table of its places on other scales, if it ran there."""
    if name not in others:
        return []
    lines = ["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in others[name].items())]
    return ["## On other scales", "By mean regret over problems and weights.", "\n".join(lines)]


def _plain(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")

"""Check of rows against a model without its weights, for `tradeoff doctor --model`."""

from __future__ import annotations

from collections.abc import Iterator

from tradeoff.data import files
from tradeoff.doctor import Finding
from tradeoff.llm import models
from tradeoff.llm._data import check_tokenizer, tokenise_preferences, tokenise_sft


def rows(model: str, sources: dict[str, str | None]) -> Iterator[Finding]:
    """Check that training sequences and generation prompts agree.

    Parameters
    ----------
    model
        Folder of a model or of a run, or hub name; weights are not read.
    sources
        Rows by objective, "sft" and "preference"; None: not checked.

    Raises
    ------
    InputError
        If the model or the rows cannot be read, or the tokenizer does not fit the model.
    """
    config, tokenizer = models.without_weights(model)
    text_config = config.get_text_config()
    check_tokenizer(tokenizer, text_config.vocab_size, conversational=False)
    longest = models.context(config) or 2**20
    kinds = {
        "sft": (files.read_sft, tokenise_sft),
        "preference": (files.read_preferences, tokenise_preferences),
    }
    for name, source in sources.items():
        if source is None:
            continue
        read, tokenise = kinds[name]
        found = read(source, skip_bad=True)  # type: ignore[operator]
        items = tokenise(found, tokenizer, longest)  # type: ignore[operator]
        refused = [*found.dropped, *items.dropped]
        counts = f"{len(items)} rows of {source} can be used, {len(refused)} cannot"
        yield Finding("rows", name, counts, not refused, str(refused[0]) if refused else "")
        yield from (Finding("rows", name, f.seen, False, f.remedy) for f in items.findings)

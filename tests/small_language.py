"""Rows of the generated language that tests of the tiny language model share."""

from __future__ import annotations

from tradeoff.data.synthetic import Language, generate

DATA = generate(
    Language(
        sft_rows=24,
        preference_rows=16,
        test_rows=8,
        documents=60,
        skills=("count", "sort"),
        preferences=("polite", "short"),
    )
)

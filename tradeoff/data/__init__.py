"""Data rows: read from files, checked, and normalised to what both objectives need."""

from tradeoff.data.chosen import chosen_as_sft
from tradeoff.data.files import Rows, read_preferences, read_sft
from tradeoff.data.rows import Message, Origin, PreferenceRow, SftRow, Text, as_text

__all__ = [
    "Message",
    "Origin",
    "PreferenceRow",
    "Rows",
    "SftRow",
    "Text",
    "as_text",
    "chosen_as_sft",
    "read_preferences",
    "read_sft",
]

"""Data rows: read from files, checked, and normalised to what both objectives need."""

from tradeoff.data.files import Rows, read_preferences, read_sft
from tradeoff.data.rows import Message, PreferenceRow, SftRow, Text, as_text

__all__ = [
    "Message",
    "PreferenceRow",
    "Rows",
    "SftRow",
    "Text",
    "as_text",
    "read_preferences",
    "read_sft",
]

"""A small instruction language, generated: skills to fine-tune, styles to prefer, text to pretrain.

Every row is a function of a `Language`, a seed among its settings; no file is needed. Answers and
styles are checked exactly, so what a model kept and what it gave up can be told apart:
`exact_match` scores whole responses, `answer_match` the answers inside them, and
`preference_match` the style around them.
"""

from tradeoff.data.synthetic.generate import InstructionData, InstructionRow, StyleRow, generate
from tradeoff.data.synthetic.prompts import ASKERS
from tradeoff.data.synthetic.scoring import answer_match, exact_match, preference_match
from tradeoff.data.synthetic.settings import Language
from tradeoff.data.synthetic.skills import SKILLS, Problem, Skill
from tradeoff.data.synthetic.style import PREFERENCES, Style, better, content, dress, satisfies
from tradeoff.data.synthetic.write import as_conversations, write, write_jsonl

__all__ = [
    "ASKERS",
    "PREFERENCES",
    "SKILLS",
    "InstructionData",
    "InstructionRow",
    "Language",
    "Problem",
    "Skill",
    "Style",
    "StyleRow",
    "answer_match",
    "as_conversations",
    "better",
    "content",
    "dress",
    "exact_match",
    "generate",
    "preference_match",
    "satisfies",
    "write",
    "write_jsonl",
]

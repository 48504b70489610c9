"""A generated instruction language: skills for SFT, styles for preferences, text for pretraining.

Every row is a function of a `Language`, whose settings include a seed; no file is needed. Answers
and styles are scored exactly and apart, so that the scores show what a model has forgotten:
`exact_match` scores whole responses, `answer_match` the answers inside them, and `preference_match`
the style around them.
"""

from tradeoff.data.synthetic.generate import InstructionData, InstructionRow, StyleRow, generate
from tradeoff.data.synthetic.prompts import ASKERS
from tradeoff.data.synthetic.right_answers import answer_match, exact_match, preference_match
from tradeoff.data.synthetic.settings import Language
from tradeoff.data.synthetic.skills import SKILLS, Skill, SkillProblem
from tradeoff.data.synthetic.style import PREFERENCES, Style, better, content, dress, satisfies
from tradeoff.data.synthetic.write import as_conversations, write, write_jsonl

__all__ = [
    "ASKERS",
    "PREFERENCES",
    "SKILLS",
    "InstructionData",
    "InstructionRow",
    "Language",
    "Skill",
    "SkillProblem",
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

"""Evaluation of language models: losses, responses, multiple choice, win rates and refusals.

`evaluate` does it all for a saved model; each part can also be used alone.
"""

from tradeoff.llm.evaluation.answers import Extract, normalised
from tradeoff.llm.evaluation.generation import GeneratedResponses, Sampling, generate
from tradeoff.llm.evaluation.harness import harness
from tradeoff.llm.evaluation.judges import Contest, ImplicitReward, RewardModel, reward_model
from tradeoff.llm.evaluation.matches import exact_match
from tradeoff.llm.evaluation.multiple_choice import ChoiceScores, multiple_choice
from tradeoff.llm.evaluation.policy import LoadedPolicy, load
from tradeoff.llm.evaluation.refusals import refusal_rates, refuses
from tradeoff.llm.evaluation.report import Evaluation, Section, terminal_table
from tradeoff.llm.evaluation.run import Wanted, evaluate
from tradeoff.llm.evaluation.score import Score
from tradeoff.llm.evaluation.win_rate import Verdicts, against_chosen, judged

__all__ = [
    "ChoiceScores",
    "Contest",
    "Evaluation",
    "Extract",
    "GeneratedResponses",
    "ImplicitReward",
    "LoadedPolicy",
    "RewardModel",
    "Sampling",
    "Score",
    "Section",
    "Verdicts",
    "Wanted",
    "against_chosen",
    "evaluate",
    "exact_match",
    "generate",
    "harness",
    "judged",
    "load",
    "multiple_choice",
    "normalised",
    "refusal_rates",
    "refuses",
    "reward_model",
    "terminal_table",
]

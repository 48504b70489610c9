"""The judges of the package: which of two responses is better?

Any callable ``(prompt, first, second) -> probability that the first wins`` is also a judge, see
`tradeoff.llm.evaluation.win_rate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from tradeoff.data.rows import Message, PreferenceRow, Text
from tradeoff.errors import InputError
from tradeoff.llm import _pretrained, models, setup
from tradeoff.llm._encoding import require_template
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.evaluation import held_out
from tradeoff.llm.evaluation.policy import LoadedPolicy, compared, longest
from tradeoff.progress import tqdm

_ONE_OUTPUT = "Give a folder or hub name of a sequence classifier with one output."


@dataclass(frozen=True)
class Contest:
    """Two responses to one prompt, which is text or a conversation."""

    prompt: Text
    first: str
    second: str


Judge = Callable[[Text, str, str], float]
"""Maps a prompt and two responses to the probability that the first is the better one."""


@runtime_checkable
class MarginJudge(Protocol):
    """A judge that scores each response alone, so that the order does not matter."""

    def margins(
        self, contests: Sequence[Contest], progress: bool = False
    ) -> Float[np.ndarray, " n"]:
        """Score of the first response less that of the second; NaN if there is none."""


@dataclass(frozen=True)
class ImplicitReward:
    """The implicit reward of a checkpoint: log pi - log pi_ref.

    Attributes
    ----------
    policy, reference
        The checkpoint, and the reference of its training.
    per_token
        Divide by the number of tokens of a response, so that long responses have no advantage.
    """

    policy: LoadedPolicy
    reference: LoadedPolicy
    per_token: bool = False

    def margins(
        self, contests: Sequence[Contest], progress: bool = False
    ) -> Float[np.ndarray, " n"]:
        """Reward of the first less that of the second, in nats; NaN if the prompt is too long."""
        rows = [
            PreferenceRow(c.prompt, _reply(c.prompt, c.first), _reply(c.prompt, c.second))
            for c in contests
        ]
        items = held_out.pairs(compared(self.policy, self.reference), rows)
        policy, reference = (
            held_out.log_probs(part, items, progress).table.double().numpy()
            for part in (self.policy, self.reference)
        )
        ratio = policy - reference
        if self.per_token:
            ratio /= [[n - item.start for n in item.lengths] for item in items]
        found = np.full(len(contests), np.nan)
        found[list(items.rows)] = ratio[:, 0] - ratio[:, 1]
        return found


@dataclass(frozen=True)
class RewardModel:
    """A model of transformers that maps prompt and response to one number.

    Attributes
    ----------
    model, tokenizer
        A sequence classifier with one output, on its device.
    max_length
        Longest sequence; longer ones are cut on the left.
    rows_at_once
        Responses of one pass.
    """

    model: Any
    tokenizer: Any
    max_length: int = 2048
    rows_at_once: int = 16

    def margins(
        self, contests: Sequence[Contest], progress: bool = False
    ) -> Float[np.ndarray, " n"]:
        """Reward of the first less that of the second."""
        texts = [self._text(c.prompt, c.first) for c in contests]
        texts += [self._text(c.prompt, c.second) for c in contests]
        first, second = np.split(self._rewards(texts, progress), 2)
        return first - second

    def _text(self, prompt: Text, response: str) -> tuple[str, bool]:
        """The text to score, and whether special tokens must still be added."""
        if isinstance(prompt, str):
            return prompt + response, True
        turns = [m.as_dict() for m in prompt]
        turns.append({"role": "assistant", "content": response})
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False)), False
        except Exception as error:  # a template is a program and can raise any error
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(
                f"the judge's chat template cannot render a conversation: {reason}",
                field="judge",
                value=turns,
                remedy="Use a judge with a chat template for such turns, or pairs of plain text.",
            ) from error

    @torch.no_grad()
    def _rewards(
        self, texts: Sequence[tuple[str, bool]], progress: bool
    ) -> Float[np.ndarray, " n"]:
        ids = [
            self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
            for text, special in texts
        ]
        if not all(ids):
            raise InputError(
                "a response gives the judge no tokens",
                field="judge",
                value=texts[ids.index([])][0],
                remedy="Leave empty rows out, or use a judge whose chat template writes something.",
            )
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        found = np.zeros(len(ids))
        parts = range(0, len(order), self.rows_at_once)
        for start in tqdm(parts, desc="rewards", disable=not progress, leave=False):
            part = order[start : start + self.rows_at_once]
            found[part] = self._pass([ids[i][-self.max_length :] for i in part])
        return found

    def _pass(self, ids: Sequence[list[int]]) -> Float[np.ndarray, " n"]:
        time, pad = max(map(len, ids)), setup.padding(self.tokenizer)
        tokens = torch.tensor([row + [pad] * (time - len(row)) for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (time - len(row)) for row in ids])
        device = self.model.device
        logits = self.model(input_ids=tokens.to(device), attention_mask=mask.to(device)).logits
        return logits[:, 0].double().cpu().numpy()


def reward_model(path: str | Path, config: TrainConfig | None = None) -> RewardModel:
    """Read a reward model from a folder or hub name.

    Raises
    ------
    InputError
        If it is not a sequence classifier with one output and a tokenizer, or lacks weights, such
        as those of its trained head.
    """
    config = config or TrainConfig()
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    tokenizer = check_reward_model(path)
    with _loading(path):
        base = models.base_of(str(path))
        model = models.with_weights(str(path), base, "SequenceClassification", dtype=dtype)
    # The model finds the last token of each row by the padding.
    model.config.pad_token_id = setup.padding(tokenizer)
    device = setup.accelerator(config, None).device
    return RewardModel(model.eval().to(device), tokenizer, longest(model.config, config))


def check_reward_model(path: str | Path, *, conversational: bool = False) -> Any:
    """Check a reward model without its weights, and return its tokenizer.

    Parameters
    ----------
    path
        A folder or hub name.
    conversational
        Whether some prompt is a conversation.

    Raises
    ------
    InputError
        If it is not a sequence classifier with one output and a tokenizer, or a needed chat
        template is missing.
    """
    with _loading(path):
        place = models.model_folder(str(path))
        base = models.base_of(place)
        tokenizer, found = models.tokenizer_of(place, base), _pretrained.settings_of(base)
    if any(name.endswith("ForCausalLM") for name in found.architectures or ()):
        remedy = "Give --judge-reference too, or the folder of a reward model."
        raise InputError("this is a policy", field="judge", value=str(path), remedy=remedy)
    if found.num_labels != 1:
        problem = f"the classifier has {found.num_labels} outputs"
        raise InputError(problem, field="judge", value=str(path), remedy=_ONE_OUTPUT)
    if conversational:
        require_template(tokenizer)
    return tokenizer


@contextmanager
def _loading(path: str | Path) -> Iterator[None]:
    try:
        yield
    except models.UNREADABLE as error:
        problem = f"no reward model can be loaded: {models.reason(error)}"
        raise InputError(problem, field="judge", value=str(path), remedy=_ONE_OUTPUT) from error


def _reply(prompt: Text, response: str) -> Text:
    return response if isinstance(prompt, str) else (Message("assistant", response),)

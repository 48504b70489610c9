"""Byte-level tokenizers with any chat template, end token and post-processor; no network."""

from __future__ import annotations

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Engine
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|pad|>", "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")


def chat_tokenizer(
    template: str | None = CHATML,
    *,
    eos: str = "<|im_end|>",
    bos: str | None = None,
    post: str | None = None,
) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes; `post` is what the tokenizer adds, such as ``"<s> $A"``."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    engine = Engine(models.BPE(vocab={t: i for i, t in enumerate((*SPECIAL, *letters))}, merges=[]))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    if post is not None:
        used = [(token, engine.token_to_id(token)) for token in SPECIAL if token in post]
        engine.post_processor = processors.TemplateProcessing(single=post, special_tokens=used)
    return PreTrainedTokenizerFast(
        tokenizer_object=engine,
        bos_token=bos,
        eos_token=eos,
        pad_token="<|pad|>",
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )

"""Tiny random models and locally trained tokenizers for the tests of tradeoff.llm; no network.

The tokenizers represent the families in use: plain bytes (ours), byte-level BPE with a BOS token
(Llama 3) or without (Pythia), and BPE over metaspaces with byte fallback (Llama 2). Each has EOS,
PAD and a chat template, and is made anew on every call, since trainers write to tokenizers.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tradeoff.data.tokenizer import byte_tokenizer
from tradeoff.networks.hugging_face import to_hugging_face
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
TEXTS = (
    "The quick brown fox jumps over the lazy dog, and the other dogs look on with interest.",
    "Question: What is the capital of France? Answer: The capital of France is Paris.",
    "Human: How do I bake bread? Assistant: Mix flour, water, salt and yeast, then wait.",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))  # 3\n",
    "There are many things that one can say, but few that one should say to another person.",
    "user: hello there\nassistant: hello, how can I help you today?\n",
)
LLAMA_3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
LLAMA_2_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] | trim + ' ' + eos_token }}"
    "{% else %}{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}{% endif %}"
    "{% endfor %}"
)


def tiny_llama(vocabulary: int, seed: int = 0, **settings: Any) -> LlamaForCausalLM:
    """A random Llama of two layers in float32; `settings` go to its config."""
    config = LlamaConfig(**{**_sizes(vocabulary), "num_key_value_heads": 2, **settings})
    return _random(LlamaForCausalLM, config, seed)


def tiny_neox(vocabulary: int, seed: int = 0, **settings: Any) -> GPTNeoXForCausalLM:
    """A random GPT-NeoX, the architecture of Pythia, otherwise as `tiny_llama`."""
    return _random(GPTNeoXForCausalLM, GPTNeoXConfig(**{**_sizes(vocabulary), **settings}), seed)


def byte_tokenizer_hf() -> PreTrainedTokenizerFast:
    """The byte tokenizer of tradeoff, read back from a folder of `to_hugging_face`."""
    tokenizer = byte_tokenizer()
    model = LanguageModel(
        LanguageModelConfig(vocabulary=len(tokenizer), width=8, layers=1, heads=1)
    )
    with tempfile.TemporaryDirectory() as folder:
        to_hugging_face(model, tokenizer, folder)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def bpe_tokenizer_hf(bos: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 400 tokens; with `bos`, texts begin with BOS as those of Llama 3 do."""
    return _wrap(Engine.from_str(_byte_level_bpe(bos)), LLAMA_3_TEMPLATE)


def metaspace_tokenizer_hf() -> PreTrainedTokenizerFast:
    """BPE of 500 tokens in the manner of sentencepiece, with BOS, as in Llama 2."""
    return _wrap(Engine.from_str(_metaspace_bpe()), LLAMA_2_TEMPLATE)


def _sizes(vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _random(kind: type, config: Any, seed: int) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config)


def _wrap(engine: Engine, chat_template: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=engine,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


@cache
def _byte_level_bpe(bos: bool) -> str:
    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(TEXTS, trainer)
    if bos:
        engine.post_processor = _bos_first(engine)
    return engine.to_str()


@cache
def _metaspace_bpe() -> str:
    engine = Engine(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    engine.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    engine.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=[BOS, EOS, PAD, "<unk>", *fallback], show_progress=False
    )
    engine.train_from_iterator((word for text in TEXTS for word in text.split()), trainer)
    engine.post_processor = _bos_first(engine)
    written = json.loads(engine.to_str())
    # The trainer counts the bytes among the special tokens, which decoding would omit.
    written["added_tokens"] = [t for t in written["added_tokens"] if t["content"] not in fallback]
    return json.dumps(written)


def _bos_first(engine: Engine) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, engine.token_to_id(BOS))],
    )

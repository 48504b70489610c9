"""The small transformer: right gradients, causal, and equal in an ensemble, a cache and a Llama."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch.func import functional_call, grad, vmap
from torch.testing import assert_close

from tradeoff import objectives
from tradeoff.data.tokenizer import byte_tokenizer
from tradeoff.errors import InputError
from tradeoff.networks import checkpoints
from tradeoff.networks._attention import (
    _FoldedAttention,
    causal_attention,
    ragged_attention,
    rotary_angles,
    rotate,
)
from tradeoff.networks.generation import generate
from tradeoff.networks.hugging_face import from_hugging_face, load_llama, to_hugging_face
from tradeoff.networks.language_model import (
    LanguageModel,
    LanguageModelConfig,
    response_log_probs,
    stack_parameters,
)

SMALL = LanguageModelConfig(vocabulary=23, width=16, layers=2, heads=2, hidden=24)
UNTIED = LanguageModelConfig(vocabulary=23, width=16, layers=2, heads=4, hidden=40, tied=False)
TOKENIZER = byte_tokenizer()
BYTES = LanguageModelConfig(vocabulary=len(TOKENIZER), width=16, layers=2, heads=2, hidden=24)


def sharpened(config: LanguageModelConfig, seed: int = 0) -> LanguageModel:
    """A model far enough from uniform for its logits to differ."""
    model = LanguageModel(config, seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(1.5)
    return model


def some_tokens(*shape: int, vocabulary: int = 23, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- the model


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = LanguageModel(SMALL, 3)
    state = torch.random.get_rng_state()
    second = LanguageModel(SMALL, 3)
    assert torch.equal(state, torch.random.get_rng_state())
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])
    assert not torch.equal(first.embed_tokens.weight, LanguageModel(SMALL, 4).embed_tokens.weight)


@pytest.mark.parametrize(
    ("name", "parameters"), [("nano", 201_280), ("micro", 989_568), ("tiny", 4_746_496)]
)
def test_presets_have_the_stated_size(name: str, parameters: int) -> None:
    model = LanguageModel(LanguageModelConfig.preset(name, vocabulary=10))
    total = sum(p.numel() for p in model.parameters())
    assert total - model.embed_tokens.weight.numel() == parameters


@torch.no_grad()
def test_an_untrained_model_is_nearly_uniform() -> None:
    tokens = some_tokens(64, 9)
    logits = LanguageModel(SMALL)(tokens)
    assert logits.shape == (64, 9, 23)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    loss = -response_log_probs(logits, tokens, mask).mean() / 8
    assert np.log(23) - 0.1 < float(loss) < np.log(23) + 1.5


def test_a_later_token_leaves_earlier_logits_alone() -> None:
    model, tokens = sharpened(SMALL), some_tokens(2, 10)
    changed = tokens.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 23
    before, after = model(tokens), model(changed)
    assert_close(before[:, :6], after[:, :6], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_rows_and_padding_do_not_mix() -> None:
    model, tokens = sharpened(SMALL), some_tokens(4, 10)
    order = torch.tensor([2, 0, 3, 1])
    assert_close(model(tokens[order]), model(tokens)[order], atol=1e-5, rtol=1e-5)
    assert_close(model(tokens[:, :7]), model(tokens)[:, :7], atol=1e-5, rtol=1e-5)


def test_rotary_scores_depend_on_distance_alone() -> None:
    query, key = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def score(i: int, j: int) -> float:
        turned = []
        for x, place in ((query, i), (key, j)):
            angles = rotary_angles(torch.tensor([place]), 8, 10_000.0).double()
            turned.append(rotate(x[None], angles.cos(), angles.sin()))
        return float((turned[0] * turned[1]).sum())

    assert score(5, 2) == pytest.approx(score(103, 100), rel=1e-5)
    assert score(5, 2) != pytest.approx(score(5, 3), rel=1e-3)


def test_gradient_of_log_probabilities_against_finite_differences() -> None:
    model, tokens = sharpened(SMALL).double(), some_tokens(2, 6)
    mask = torch.arange(6) > torch.tensor([[1], [3]])

    def value(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        # Sums are in float32 by default; float64 stays float64.
        logits = functional_call(model, parameters, (tokens,))
        return (
            logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0] * mask[:, 1:]
        ).sum()

    parameters = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    gradient = torch.autograd.grad(value(parameters), list(parameters.values()))
    generator = torch.Generator().manual_seed(1)
    direction = {
        name: torch.randn(p.shape, dtype=p.dtype, generator=generator)
        for name, p in parameters.items()
    }
    step = 1e-6
    with torch.no_grad():
        ends = [
            value({n: p + sign * step * direction[n] for n, p in parameters.items()})
            for sign in (1, -1)
        ]
    slope = sum((g * d).sum() for g, d in zip(gradient, direction.values(), strict=True))
    assert float(slope) == pytest.approx(float((ends[0] - ends[1]) / (2 * step)), rel=1e-6)


def test_attention_under_vmap_of_a_gradient_agrees_with_finite_differences() -> None:
    qkv = torch.randn(3, 2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_FoldedAttention.apply, tuple(qkv.unbind()))


@pytest.mark.slow
def test_ragged_attention_is_fused_attention_of_each_sequence() -> None:
    starts, after = torch.tensor([0, 1, 8, 10, 15, 18]), torch.tensor([-1, -1, 1, -1, 1])
    seen = [[0], range(1, 8), range(1, 10), range(10, 15), [*range(1, 8), *range(15, 18)]]
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(3, 18, 2, 6, dtype=torch.float64, generator=generator)
    angles = rotary_angles(torch.arange(12), 6, 100.0).double()
    turn = angles.cos(), angles.sin()
    found = ragged_attention(*qkv, starts, after, *turn)
    expected = []
    for sequence, places in enumerate(seen):
        q, k, v = qkv[:, list(places)].transpose(1, 2)
        here = [x[: len(places)] for x in turn]
        mixed = causal_attention(rotate(q, *here), rotate(k, *here), v).transpose(0, 1)
        expected.append(mixed[-int(starts.diff()[sequence]) :])
    assert_close(found, torch.cat(expected))
    leaves = [x.clone().requires_grad_() for x in qkv]
    assert torch.autograd.gradcheck(lambda *x: ragged_attention(*x, starts, after, *turn), leaves)


@pytest.mark.parametrize("config", [SMALL, UNTIED], ids=["tied", "untied"])
def test_sequences_end_to_end_score_as_rows(config: LanguageModelConfig) -> None:
    model, tokens = sharpened(config), some_tokens(3, 8)
    tokens[2, :3] = tokens[0, :3]
    rows = model(tokens)
    laid = torch.cat([tokens[0], tokens[1, :1], tokens[2, :5]])
    place = {"starts": torch.tensor([0, 8, 9, 14]), "after": torch.full((3,), -1)}
    expected = torch.cat([rows[0], rows[1, :1], rows[2, :5]])
    assert_close(model(laid, **place), expected, atol=1e-5, rtol=1e-5)
    shared = torch.cat([tokens[0, :3], tokens[0, 3:], tokens[2, 3:6]])
    place = {"starts": torch.tensor([0, 3, 8, 11]), "after": torch.tensor([-1, 0, 0])}
    expected = torch.cat([rows[0], rows[2, 3:6]])
    assert_close(model(shared, **place), expected, atol=1e-5, rtol=1e-5)
    wanted = torch.tensor([6, 2, 2, 9])
    assert_close(model(shared, **place, wanted=wanted), expected[wanted], atol=1e-5, rtol=1e-5)


def test_response_log_probs_sum_the_masked_tokens() -> None:
    logits, tokens = torch.randn(3, 6, 5), some_tokens(3, 6, vocabulary=5)
    mask = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    expected = [
        sum(
            float(logits[row, t - 1].log_softmax(-1)[tokens[row, t]])
            for t in range(1, 6)
            if mask[row, t]
        )
        for row in range(3)
    ]
    assert_close(response_log_probs(logits, tokens, mask), torch.tensor(expected))


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"layers": 0}, "layers"), ({"width": 20}, "width"), ({"vocabulary": 0}, "vocabulary")],
)
def test_bad_shapes_name_the_field(changes: dict[str, int], field: str) -> None:
    with pytest.raises(InputError, match=f"field '{field}'"):
        LanguageModelConfig(**{"vocabulary": 9, "heads": 4, **changes})
    with pytest.raises(InputError, match="nano"):
        LanguageModelConfig.preset("giant", vocabulary=9)


# ---------------------------------------------------------------------- ensembles


def dpo_loss(model: LanguageModel, parameters: dict, tokens: torch.Tensor) -> torch.Tensor:
    logits = functional_call(model, parameters, (tokens,))
    sums = response_log_probs(logits, tokens, torch.ones_like(tokens, dtype=torch.bool))
    return objectives.dpo(objectives.margin(*sums.view(2, -1)), 0.1).mean()


@pytest.mark.parametrize("config", [SMALL, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("shared", [True, False])
def test_an_ensemble_equals_a_loop(config: LanguageModelConfig, shared: bool) -> None:
    models = [sharpened(config, seed) for seed in range(3)]
    tokens = some_tokens(4, 7) if shared else some_tokens(3, 4, 7)
    each = [tokens if shared else tokens[i] for i in range(3)]
    dims = (0, None if shared else 0)

    def loss(parameters: dict, x: torch.Tensor) -> torch.Tensor:
        return dpo_loss(models[0], parameters, x)

    expected = [
        torch.autograd.grad(dpo_loss(m, dict(m.named_parameters()), x), list(m.parameters()))
        for m, x in zip(models, each, strict=True)
    ]
    stacked = stack_parameters(models)
    inside = vmap(grad(loss), in_dims=dims)(stacked, tokens)
    leaves = {name: p.requires_grad_() for name, p in stacked.items()}
    outside = torch.autograd.grad(
        vmap(loss, in_dims=dims)(leaves, tokens).sum(), list(leaves.values())
    )
    for place, (name, _) in enumerate(models[0].named_parameters()):
        loop = torch.stack([gradients[place] for gradients in expected])
        assert_close(inside[name], loop, atol=1e-5, rtol=1e-4)
        assert_close(outside[place], loop, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------------- generation


def recomputed(model: LanguageModel, prompt: list[int], limit: int, eos: int) -> list[int]:
    ids = list(prompt)
    for _ in range(limit):
        token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token == eos:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_generation_with_a_cache_equals_full_recomputation(batch_size: int) -> None:
    model = sharpened(SMALL)
    prompts = [some_tokens(n, seed=n).tolist() for n in (5, 1, 9, 3, 3, 7, 2)]
    # A token that some row writes, so that rows end at different times.
    eos = recomputed(model, prompts[0], 6, eos=-1)[-1]
    found = generate(model, prompts, eos=eos, max_new_tokens=12, batch_size=batch_size)
    assert found == [recomputed(model, prompt, 12, eos) for prompt in prompts]
    assert len({len(row) for row in found}) > 1


def test_sampling_follows_seed_and_temperature() -> None:
    model, prompts = sharpened(SMALL), [[1, 2]] * 2000
    draws = generate(model, prompts, eos=0, max_new_tokens=1, temperature=1.5, batch_size=2000)
    again = generate(model, prompts, eos=0, max_new_tokens=1, temperature=1.5, batch_size=2000)
    other = generate(model, prompts, eos=0, max_new_tokens=1, temperature=1.5, seed=1)
    assert draws == again != other
    expected = (model(torch.tensor([[1, 2]]))[0, -1] / 1.5).softmax(-1)
    counts = np.bincount([row[0] if row else 0 for row in draws], minlength=23)
    assert np.abs(counts / 2000 - expected.detach().numpy()).max() < 0.06


def test_generation_refuses_what_cannot_work() -> None:
    model = LanguageModel(SMALL)
    for changes in ({"prompts": [[1], []]}, {"max_new_tokens": 0}, {"temperature": -1.0}):
        arguments = {"prompts": [[1]], "eos": 0, **changes}
        with pytest.raises(InputError, match=next(iter(changes))):
            generate(model, **arguments)
    assert generate(model, [], eos=0) == []


# ---------------------------------------------------------------------- on disk


@pytest.mark.parametrize("config", [SMALL, UNTIED], ids=["tied", "untied"])
def test_saved_and_loaded(config: LanguageModelConfig, tmp_path: Path) -> None:
    model = LanguageModel(config, 5)
    checkpoints.save(LanguageModel(config, 6), tmp_path / "model")
    checkpoints.save(model, tmp_path / "model")
    loaded = checkpoints.load(tmp_path / "model")
    assert loaded.config == config
    assert_array_equal(loaded(some_tokens(2, 5)).detach(), model(some_tokens(2, 5)).detach())
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"model.safetensors", "settings.json"}


def test_a_folder_of_a_model_is_there_only_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, older = tmp_path / "new", tmp_path / "older"
    older.mkdir()
    (older / "notes").touch()
    checkpoints.save(LanguageModel(SMALL), older)

    def killed(*_: object, **__: object) -> None:
        assert not new.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "to_bytes", killed)
        for folder in (new, older):
            with pytest.raises(KeyboardInterrupt):
                checkpoints.save(LanguageModel(UNTIED), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["older"]
    names = {path.name for path in older.iterdir()}
    assert names == {"model.safetensors", "settings.json", "notes"}
    assert checkpoints.load(older).config == SMALL


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"settings\.json"):
        checkpoints.load(tmp_path)
    checkpoints.save(LanguageModel(SMALL), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12")
    with pytest.raises(InputError, match=r"model\.safetensors"):
        checkpoints.load(tmp_path)
    checkpoints.save(LanguageModel(SMALL), tmp_path)
    settings = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps(settings | {"width": 32}))
    with pytest.raises(InputError, match="do not fit"):
        checkpoints.load(tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps(settings | {"depth": 32}))
    with pytest.raises(InputError, match="depth"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_a_llama_with_the_same_logits(tied: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = LanguageModelConfig(
        vocabulary=len(TOKENIZER), width=16, layers=2, heads=2, hidden=24, tied=tied, theta=500.0
    )
    model = sharpened(config)
    to_hugging_face(model, TOKENIZER, tmp_path)
    llama = load_llama(tmp_path)
    tokens = some_tokens(3, 12, vocabulary=len(TOKENIZER))
    with torch.no_grad():
        assert_close(llama(tokens).logits, model(tokens), atol=1e-5, rtol=1e-5)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path), local_files_only=True)
    assert theirs("Ann: é <eos>\n")["input_ids"] == TOKENIZER.encode("Ann: é <eos>\n")
    assert (theirs.pad_token_id, theirs.eos_token_id) == (TOKENIZER.pad, TOKENIZER.eos)
    # Also back again, from a file that transformers has written.
    llama.save_pretrained(tmp_path)
    back, tokenizer = from_hugging_face(tmp_path)
    assert back.config == config
    assert_array_equal(back(tokens).detach(), model(tokens).detach())
    assert tokenizer.encode("Ann") == TOKENIZER.encode("Ann")


def test_export_refuses_a_foreign_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="261 tokens"):
        to_hugging_face(LanguageModel(SMALL), TOKENIZER, tmp_path / "llama")
    assert not (tmp_path / "llama").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"num_key_value_heads": 1},
        {"hidden_act": "gelu"},
        {"model_type": "gpt2"},
        {"rope_parameters": {"rope_type": "yarn"}},
    ],
)
def test_other_llamas_are_refused_by_name(change: dict, tmp_path: Path) -> None:
    to_hugging_face(LanguageModel(BYTES), TOKENIZER, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=r"lacks.*(heads|act|type)"):
        from_hugging_face(tmp_path)

"""The head in float32: the model's own logits, whatever sits on it, and the memory of a part of the vocabulary."""

import copy

import pytest
import torch
import transformers
from conftest import FAMILIES
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode

from interp.errors import UserError
from interp.models import head as heads
from interp.models.adapters import quiet_peft
from interp.models.head import Head, NextToken, head_of, hidden_kept, next_token, refuse_unlike_head

IDS = torch.tensor([[11, 45, 200, 7, 321, 90, 33, 150, 77, 260, 12]])
SIZES = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2}


def tiny(name: str, **options):
    config = getattr(transformers, f"{name}Config")(**SIZES, **HEADS, **options)
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval().requires_grad_(False)


def adapted(model, **options):
    """The model under an adapter that changes its logits; every new weight is drawn by chance."""
    config = LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    torch.manual_seed(1)
    with quiet_peft():
        found = get_peft_model(copy.deepcopy(model), config).eval()
    for name, weight in found.named_parameters():
        if "modules_to_save" in name or "token" in name or "magnitude" in name:
            weight.data.mul_(1 + 0.3 * torch.rand_like(weight))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_own_logits(tiny_model, family):
    model = tiny_model(family)
    own = model(IDS, use_cache=False).logits[0]
    found = next_token(model, input_ids=IDS, use_cache=False).of_row(0)
    assert torch.allclose(found.logits(), own, atol=1e-4)
    assert torch.allclose(found.total, own.logsumexp(-1), atol=1e-4)
    reads, tokens = torch.tensor([3, 3, 8]), torch.tensor([5, 17, 2])
    said = own.log_softmax(-1)
    assert torch.allclose(found.logprobs(reads, tokens), said[reads, tokens], atol=1e-4)
    assert torch.allclose(found.logprobs_of_any(reads, tokens), said[reads][:, tokens].logsumexp(-1), atol=1e-4)
    refuse_unlike_head(model, IDS)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_ours_are_nearer_to_the_exact_logits_than_the_models_own(tiny_model, family):
    model = copy.deepcopy(tiny_model(family)).bfloat16()
    refuse_unlike_head(model, IDS)
    with hidden_kept(model) as kept:
        model(IDS, use_cache=False)
    exact = copy.deepcopy(model).double()
    head = head_of(model)
    ours, own = head.all_of(kept[0].float()), model(IDS, use_cache=False).logits
    truth = head_of(exact).all_of(kept[0].double())
    gaps = [(found.double() - truth).abs().max().item() for found in (ours, own)]
    assert gaps[0] < 1e-4 < gaps[1]


@pytest.mark.parametrize(
    ("name", "options"),
    [("Cohere", {"logit_scale": 0.25}), ("Granite", {"logits_scaling": 3.0}), ("Gemma2", {"head_dim": 8})],
)
def test_what_an_architecture_does_to_its_logits_is_done(name, options):
    model = tiny(name, **options)
    own = model(IDS, use_cache=False).logits
    assert torch.allclose(next_token(model, input_ids=IDS, use_cache=False).logits(), own, atol=1e-5)
    refuse_unlike_head(model, IDS)
    refuse_unlike_head(model.bfloat16(), IDS)


ADAPTERS = {
    "beside": {"target_modules": ["q_proj"]},
    "lora": {"target_modules": ["q_proj", "lm_head"]},
    "dora": {"target_modules": ["lm_head"], "use_dora": True},
    "whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [3, 5], "embed_tokens": [5, 9]}},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_on_the_head_counts(kind, dtype, tied):
    if tied and kind in ("lora", "dora", "whole"):
        pytest.skip("peft warns of adapters on one of two layers that share their weights")
    options = dict(ADAPTERS[kind])
    if tied and kind == "tokens":
        options["trainable_token_indices"] = [3, 5]
    plain = tiny("Llama", tie_word_embeddings=tied).to(dtype)
    model = adapted(plain, **options)
    own = model(IDS, use_cache=False).logits.float()
    assert (own - plain(IDS, use_cache=False).logits.float()).abs().max() > 0.01, "the adapter does something"
    found = next_token(model, input_ids=IDS, use_cache=False).logits()
    assert torch.allclose(found, own, atol=1e-4 if dtype == torch.float32 else 0.05 * own.abs().max().item())
    refuse_unlike_head(model, IDS)
    with model.disable_adapter():
        without = next_token(model, input_ids=IDS, use_cache=False).logits()
        assert torch.allclose(without, model(IDS, use_cache=False).logits.float(), atol=0.05)


def test_a_head_that_does_something_else_is_refused():
    model = tiny("Llama")
    before = model.lm_head.forward
    for odd in (lambda hidden: before(hidden).tanh() * 5, lambda hidden: before(hidden) * 1.1, before):
        model.lm_head.forward = odd
        if odd is before:
            refuse_unlike_head(model, IDS)
            continue
        with pytest.raises(UserError, match="does something that is not known here"):
            refuse_unlike_head(model, IDS)


def test_a_model_that_does_not_call_its_head_is_refused(monkeypatch):
    model = tiny("Llama")
    monkeypatch.setattr(type(model), "get_output_embeddings", lambda self: torch.nn.Linear(32, 400))
    for refused in (lambda: next_token(model, input_ids=IDS), lambda: refuse_unlike_head(model, IDS)):
        with pytest.raises(UserError, match="does not pass its head once"):
            refused()


def test_the_model_is_as_it_was_after_an_exception(tiny_model):
    model = tiny_model("llama")
    own, own_vars = model(IDS).logits, dict(vars(model.get_output_embeddings()))
    with pytest.raises(RuntimeError, match="on the way"), hidden_kept(model):
        assert model(IDS).logits.shape[-1] == 1
        raise RuntimeError("on the way")
    assert torch.equal(model(IDS).logits, own) and dict(vars(model.get_output_embeddings())) == own_vars


class Largest(TorchDispatchMode):
    """Notes the most numbers that a tensor has which is made while it is open."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        views = ("aten.t.default", "aten.detach.default", "aten.slice.Tensor", "aten.alias.default")
        if isinstance(found, torch.Tensor) and str(func) not in views:
            self.numbers = max(self.numbers, found.numel())
        return found


@pytest.mark.parametrize("with_gradient", [False, True])
def test_the_sum_over_a_large_vocabulary_takes_the_memory_of_a_part(monkeypatch, with_gradient):
    monkeypatch.setattr(heads, "PART", 500)
    matrix = torch.randn(20_000, 8)
    hidden = torch.randn(30, 8, requires_grad=with_gradient)
    head = Head(lambda rows: matrix[rows], len(matrix))
    with Largest() as seen, torch.set_grad_enabled(with_gradient):
        total = NextToken(head, hidden).total
        if with_gradient:
            (gradient,) = torch.autograd.grad(total.sum(), hidden)
    assert seen.numbers <= 30 * 500 < 30 * 20_000
    whole = hidden.detach().requires_grad_()
    expected = (whole @ matrix.T).logsumexp(-1)
    assert torch.allclose(total, expected, atol=1e-5)
    if with_gradient:
        assert torch.allclose(gradient, torch.autograd.grad(expected.sum(), whole)[0], atol=1e-4)

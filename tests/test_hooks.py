"""The hooked model is the model, hooking leaves the model alone, and what is changed for a while is changed back."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from interp import hooks
from interp.errors import UserError
from interp.hooks import EXACT, HookedModel, merged_twin

KINDS = [*((family, False) for family in FAMILIES), ("llama", True), ("gemma2", True)]
IDS = torch.arange(5, 45)[None] * 7 % 389


@pytest.fixture(scope="module")
def hooked(tiny_model) -> HookedModel:
    return HookedModel(tiny_model("llama"))


@torch.no_grad()
def eager_outputs(model, ids: torch.Tensor = IDS, **options):
    """transformers' own eager attention, on a copy of the model's own weights; adapters as peft applies them."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        return model(input_ids=ids, use_cache=False, **options)
    finally:
        model.set_attn_implementation(before)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


@pytest.mark.parametrize(("family", "adapter"), KINDS)
def test_hooked_logits_are_those_of_the_model_with_eager_attention(tiny_loaded, family, adapter):
    model = tiny_loaded(family, adapter).model
    expected = eager_outputs(model).logits
    found = HookedModel(model).logits(IDS)
    assert apart(found, expected) < (1e-3 if adapter else 1e-5)  # merging an adapter rounds its weights
    if adapter:
        with model.disable_adapter():
            assert apart(eager_outputs(model).logits, expected) > 0.01, "the adapter does something"


@pytest.mark.parametrize(("family", "adapter"), [("llama", False), ("gemma2", False), ("llama", True)])
def test_the_model_under_study_is_bit_identical_afterwards(tiny_loaded, tmp_path, family, adapter):
    model = tiny_loaded(family, adapter).model
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    attention, kinds = model.config._attn_implementation, [type(module) for module in model.modules()]
    with torch.no_grad():
        said = model(IDS).logits
    twin = HookedModel(model)
    cut = twin.attention_cut([20], [3, 4])
    replaced = twin.activation_replaced("blocks.1.hook_resid_pre", [5], torch.zeros(1, 48))
    with cut, replaced, pytest.raises(ZeroDivisionError):
        twin.logits(IDS)
        1 / 0  # noqa: B018
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, said)
    after = model.state_dict()
    assert list(after) == list(weights)
    assert all(torch.equal(after[key], weights[key]) for key in weights)
    assert model.config._attn_implementation == attention
    assert [type(module) for module in model.modules()] == kinds
    assert not model.training
    model.save_pretrained(tmp_path)
    if not adapter:
        again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        with torch.no_grad():
            assert torch.equal(again(IDS).logits, said)


def test_the_twin_shares_the_weights_and_copies_only_what_an_adapter_changes(tiny_loaded):
    for adapter in (False, True):
        model = tiny_loaded("llama", adapter).model
        base = model.get_base_model() if adapter else model
        own = {value.data_ptr() for value in base.state_dict().values()}
        copied = {key for key, value in merged_twin(model).state_dict().items() if value.data_ptr() not in own}
        changed = {f"model.layers.{i}.self_attn.{name}_proj.weight" for i in range(3) for name in ("q", "v")}
        assert copied == (changed if adapter else set())


def test_nothing_stays_hooked_after_an_exception(hooked):
    before = hooked.logits(IDS)
    for changed in (
        lambda: hooked.attention_cut([20, 30], [3, 4]),
        lambda: hooked.activation_replaced("blocks.1.hook_resid_pre", [5], torch.zeros(1, 48)),
    ):
        with pytest.raises(KeyError), changed():
            assert apart(hooked.logits(IDS), before) > 0.01, "while open it does something"
            raise KeyError
        assert torch.equal(hooked.logits(IDS), before)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in hooked.bridge.hook_dict.values())
    hooked.head_means([IDS[0].tolist()])
    assert not any(point.fwd_hooks for point in hooked.bridge.hook_dict.values())


def test_an_architecture_that_transformer_lens_does_not_know_is_one_sentence(tiny_model):
    class UnheardOfForCausalLM(LlamaForCausalLM):
        pass

    model = copy.copy(tiny_model("llama"))
    model.__class__ = UnheardOfForCausalLM
    sentence = r"transformer-lens cannot hook a UnheardOfForCausalLM \(.*leave out rollout"
    with pytest.raises(UserError, match=sentence) as raised:
        HookedModel(model)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("place", ["lm_head.weight", "model.layers.2.mlp.down_proj.weight"])
def test_a_twin_with_one_other_weight_is_refused_with_both_numbers(tiny_model, monkeypatch, place):
    honest = hooks.merged_twin

    def tampered(model):
        twin = honest(model)
        weight = twin.get_parameter(place)
        other = weight.detach().clone()
        other[6, 7] += 5.0
        owner, _, leaf = place.rpartition(".")
        setattr(twin.get_submodule(owner), leaf, torch.nn.Parameter(other, requires_grad=False))
        return twin

    monkeypatch.setattr(hooks, "merged_twin", tampered)
    with pytest.raises(
        UserError,
        match=r"the twin and the model that scores differ by [\d.]+ in their logits, which may differ by 0\.01 at most",
    ):
        HookedModel(tiny_model("llama"))
    monkeypatch.setattr(hooks, "merged_twin", honest)
    HookedModel(tiny_model("llama"))


def test_a_hooked_model_that_says_something_else_is_refused_with_both_numbers(tiny_model, monkeypatch):
    class Shifted:
        def __init__(self, bridge):
            self.bridge, self.cfg = bridge, bridge.cfg

        def __call__(self, ids):
            return self.bridge(ids) + 2e-5

    honest = hooks._bridged
    monkeypatch.setattr(hooks, "_bridged", lambda twin, name: Shifted(honest(twin, name)))
    with pytest.raises(
        UserError, match=r"the hooked model and the same model unhooked differ by \S+ .*by 1e-05 at most"
    ):
        HookedModel(tiny_model("llama"))
    assert EXACT[torch.float32] == 1e-5


def test_logits_that_are_no_numbers_are_refused():
    with pytest.raises(UserError, match="differ by nan"):
        hooks._compare("both", torch.tensor([float("nan")]), torch.zeros(1), 1.0)
    hooks._compare("both", torch.ones(1), torch.zeros(1), 1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_head_means_are_the_models_own_attention_averaged_over_heads(tiny_model, family):
    model = tiny_model(family)
    prompts = [IDS[0, :n].tolist() for n in (40, 7, 25)]
    means = HookedModel(model).head_means(prompts)
    for prompt, layers in zip(prompts, means, strict=True):
        own = eager_outputs(model, torch.tensor([prompt]), output_attentions=True).attentions
        assert len(layers) == len(own) == model.config.num_hidden_layers
        for mean, attention in zip(layers, own, strict=True):
            assert np.abs(mean - attention[0].mean(0).numpy()).max() < 1e-5
            assert np.abs(mean - attention[0, 0].numpy()).max() > 0.01, "one head is not the mean"


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (
            lambda pattern: pattern * 0.9,
            r"layer 0: attention rows differ from 1 by up to 0\.1 and look ahead by up to 0:",
        ),
        (lambda pattern: torch.full_like(pattern, 1 / pattern.shape[-1]), r"look ahead by up to 0\.1"),
    ],
)
def test_attention_that_rollout_cannot_use_is_refused(tiny_model, spoil, match):
    hooked = HookedModel(tiny_model("llama"))
    inner = hooked.bridge.run_with_hooks

    def spoilt(ids, *, fwd_hooks, **options):
        names, keep = fwd_hooks[0]
        return inner(ids, fwd_hooks=[(names, lambda pattern, hook: keep(spoil(pattern), hook))], **options)

    hooked.bridge.run_with_hooks = spoilt
    with pytest.raises(UserError, match=match):
        hooked.head_means([IDS[0, :10].tolist()])


@pytest.mark.parametrize("layers", [None, [1]])
def test_a_cut_leaves_no_mass_where_it_cuts_and_touches_no_other_row(hooked, layers):
    ids = [IDS[0].tolist()]
    (before,) = hooked.head_means(ids)
    looking, looked_at = [20, 33], [3, 4, 5, 20]
    with hooked.attention_cut(looking, looked_at, layers):
        (after,) = hooked.head_means(ids)
    cut = np.ix_(looking, looked_at)
    for layer in range(3):
        assert after[layer].sum(-1) == pytest.approx(1, abs=1e-5)
        assert (after[layer][cut].max() == 0) == (layer in (layers or range(3)))
    first = layers[0] if layers else 0
    others = [i for i in range(40) if i not in looking]
    assert np.abs(after[first] - before[first])[others].max() < 1e-6
    assert before[first][20, [3, 4, 5, 20]].min() > 0, "it was not nothing before"


def test_a_cut_renormalises_each_heads_row_over_what_is_left(hooked):
    patterns: dict[str, torch.Tensor] = {}

    def keep(pattern, hook):
        patterns[hook.name] = pattern

    names = [("blocks.0.attn.hook_pattern", keep)]
    hooked.bridge.run_with_hooks(IDS, fwd_hooks=names)
    (before,) = patterns.values()
    patterns.clear()
    with hooked.attention_cut([30], [2, 3], [0]):
        hooked.bridge.run_with_hooks(IDS, fwd_hooks=names)
    (after,) = patterns.values()
    left = before[0, :, 30].clone()
    left[:, [2, 3]] = 0
    assert apart(after[0, :, 30], left / left.sum(-1, keepdim=True)) < 1e-5


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_patching_the_residual_of_another_run_reproduces_its_later_logits(hooked, layer):
    other = IDS.clone()
    other[0, 10] = 300
    name = f"blocks.{layer}.hook_resid_pre"
    _, kept = hooked.bridge.run_with_cache(other, names_filter=name)
    first, second = hooked.logits(IDS), hooked.logits(other)
    changed = list(range(10, 40))
    with hooked.activation_replaced(name, changed, kept[name][0, changed]):
        patched = hooked.logits(IDS)
    assert apart(patched, second) < 1e-5
    assert apart(patched[:, :10], first[:, :10]) == 0
    assert apart(first[:, 10:], second[:, 10:]) > 0.1, "the two runs differ"
    with hooked.activation_replaced(name, [10], kept[name][0, [10]]):
        partly = hooked.logits(IDS)
    assert (apart(partly, second) < 1e-5) == (layer == 0), "deeper, what moved on to other tokens is not in that one"


def test_an_activation_that_does_not_exist_is_refused(hooked):
    with (
        pytest.raises(Exception, match=r"nowhere"),
        hooked.activation_replaced("blocks.0.nowhere", [0], torch.zeros(1, 48)),
    ):
        hooked.logits(IDS)


def modules_after(rooms: str) -> set[str]:
    """The libraries that a fresh interpreter holds after importing these rooms."""
    code = f"import sys, {rooms}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.slow
def test_importing_an_instrument_imports_neither_torch_nor_transformer_lens():
    rooms = "interp.jsd, interp.masking, interp.rollout, interp.attribution, interp.diagnose"
    assert not modules_after(rooms) & {"torch", "transformers", "transformer_lens", "captum"}
    assert not (found := modules_after("interp.hooks, interp.setting")) & {"transformer_lens", "captum", "peft"}
    assert {"torch", "transformers"} <= found


def test_hooking_leaves_the_verbosity_of_transformers_as_it_was(tiny_model):
    from transformers.utils import logging

    before = logging.get_verbosity()
    HookedModel(tiny_model("llama"))
    assert logging.get_verbosity() == before

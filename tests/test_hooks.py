"""The hooked model is the model, hooking leaves the model alone, and what is changed for a while is changed back."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ADAPTER_KINDS, FAMILIES
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from interp.errors import UserError
from interp.models import hooks
from interp.models.checkpoints import Loading, loaded_checkpoint
from interp.models.hooks import EXACT, HookedModel

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
    assert apart(found, expected) < (1e-4 if adapter else 1e-5)  # merging an adapter rounds its weights
    if adapter:
        with model.disable_adapter():
            assert apart(eager_outputs(model).logits, expected) > 0.01, "the adapter does something"


@pytest.mark.slow
@pytest.mark.parametrize(("family", "adapter"), [("llama", False), ("gemma2", False), ("llama", True)])
def test_the_model_under_study_is_bit_identical_afterwards(tiny_loaded, tmp_path, family, adapter):
    model = tiny_loaded(family, adapter).model
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    attention, kinds = model.config._attn_implementation, [type(module) for module in model.modules()]
    with torch.no_grad():
        said = model(IDS).logits
    twin = HookedModel(model)
    cut = twin.attention_knocked_out([20], [3, 4])
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


def test_the_copy_shares_float32_weights_and_is_one_of_its_own_elsewhere(tiny_loaded, tiny_model):
    for model, shares in (
        (tiny_loaded("llama").model, True),
        (tiny_loaded("llama", True).model, False),
        (copy.deepcopy(tiny_model("llama")).bfloat16(), False),
    ):
        own = {value.data_ptr() for value in model.parameters()}
        copied = hooks.exact_copy(model)
        assert ({value.data_ptr() for value in copied.parameters()} <= own) == shares
        assert {value.dtype for value in copied.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind"), [(f, k) for f in ("llama", "gemma2", "qwen2") for k in ADAPTER_KINDS])
def test_every_kind_of_adapter_is_merged_into_the_copy(adapter_of_kind, family, kind):
    model = loaded_checkpoint(str(adapter_of_kind(family, kind)), Loading(device="cpu")).model
    with torch.no_grad():
        said = model(IDS).logits
    if kind == "biases of its own" and family != "qwen2":  # whose layers have none that could take them
        with pytest.raises(UserError, match="the adapter cannot be merged for transformer-lens"):
            HookedModel(model)
    else:
        assert apart(HookedModel(model).logits(IDS), said) < 1e-3
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, said)


@pytest.mark.parametrize(("family", "adapter"), [("llama", False), ("gemma2", False), ("llama", True)])
def test_a_model_in_half_precision_is_hooked_in_float32(tiny_checkpoint, tiny_adapter, family, adapter):
    ckpt = str((tiny_adapter if adapter else tiny_checkpoint)(family))
    half = loaded_checkpoint(ckpt, Loading("cpu", "bfloat16")).model
    hooked = HookedModel(half).logits(IDS)
    with torch.no_grad():
        assert hooked.dtype == torch.float32 and apart(hooked, half.float()(IDS).logits) < 1e-3


def test_nothing_stays_hooked_after_an_exception(hooked):
    before = hooked.logits(IDS)
    for changed in (
        lambda: hooked.attention_knocked_out([20, 30], [3, 4]),
        lambda: hooked.activation_replaced("blocks.1.hook_resid_pre", [5], torch.zeros(1, 48)),
    ):
        with pytest.raises(KeyError), changed():
            assert apart(hooked.logits(IDS), before) > 0.01, "while open it does something"
            raise KeyError
        assert torch.equal(hooked.logits(IDS), before)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in hooked.bridge.hook_dict.values())


def test_an_architecture_that_transformer_lens_does_not_know_is_one_sentence(tiny_model):
    class UnheardOfForCausalLM(LlamaForCausalLM):
        pass

    model = copy.copy(tiny_model("llama"))
    model.__class__ = UnheardOfForCausalLM
    sentence = r"transformer-lens cannot hook a UnheardOfForCausalLM \("
    with pytest.raises(UserError, match=sentence) as raised:
        HookedModel(model)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("place", ["lm_head.weight", "model.layers.2.mlp.down_proj.weight"])
def test_a_hooked_model_with_one_other_weight_is_refused_with_both_numbers(tiny_loaded, monkeypatch, place):
    honest = hooks._merged

    def tampered(copied):
        merged = honest(copied)
        weight = merged.get_parameter(place)
        other = weight.detach().clone()
        other[6, 7] += 5.0
        owner, _, leaf = place.rpartition(".")
        setattr(merged.get_submodule(owner), leaf, torch.nn.Parameter(other, requires_grad=False))
        return merged

    monkeypatch.setattr(hooks, "_merged", tampered)
    for adapter, most in ((False, "1e-05"), (True, "0.001")):
        with pytest.raises(
            UserError,
            match=r"the hooked model and the same model unhooked differ by [\d.]+ in their logits, "
            rf"which may differ by {most} at most",
        ):
            HookedModel(tiny_loaded("llama", adapter).model)


def test_a_hooked_model_that_says_something_else_or_nothing_is_refused(tiny_model, monkeypatch):
    honest = hooks._bridged
    for shift, said in ((2e-5, r"differ by [12]\S*e-05"), (float("nan"), "differ by nan")):

        class Shifted:
            def __init__(self, bridge, shift=shift):
                self.bridge, self.cfg, self.shift = bridge, bridge.cfg, shift

            def __call__(self, ids):
                return self.bridge(ids) + self.shift

        monkeypatch.setattr(hooks, "_bridged", lambda twin, name, shifted=Shifted: shifted(honest(twin, name)))
        with pytest.raises(UserError, match=said):
            HookedModel(tiny_model("llama"))
    assert EXACT == 1e-5


def patterns(hooked: HookedModel, ids: torch.Tensor = IDS) -> list[np.ndarray]:
    """The attention of each layer averaged over heads, of one prompt."""
    _, kept = hooked.bridge.run_with_cache(ids, names_filter=lambda name: name.endswith("attn.hook_pattern"))
    return [kept[f"blocks.{layer}.attn.hook_pattern"][0].mean(0).numpy() for layer in range(hooked.layers)]


@pytest.mark.parametrize("layers", [None, [1]])
def test_a_cut_leaves_no_mass_where_it_cuts_and_touches_no_other_row(hooked, layers):
    before = patterns(hooked)
    looking, looked_at = [20, 33], [3, 4, 5, 20]
    with hooked.attention_knocked_out(looking, looked_at, layers):
        after = patterns(hooked)
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
    with hooked.attention_knocked_out([30], [2, 3], [0]):
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
    rooms = "interp.instruments.jsd, interp.instruments.masking, interp.instruments.rollout, interp.jsd, "
    rooms += "interp.instruments.attribution, interp.pipelines.diagnose, interp.diagnose"
    assert not modules_after(rooms) & {"torch", "transformers", "transformer_lens", "captum"}
    found = modules_after("interp.models.hooks, interp.models.setting")
    assert not found & {"transformer_lens", "captum", "peft"}
    assert {"torch", "transformers"} <= found


def test_hooking_leaves_the_verbosity_of_transformers_as_it_was(tiny_model):
    from transformers.utils import logging

    before = logging.get_verbosity()
    HookedModel(tiny_model("llama"))
    assert logging.get_verbosity() == before

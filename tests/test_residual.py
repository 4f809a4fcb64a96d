"""The residual stream: the one that transformers shows, changed as by hand, and left as it was afterwards."""

import copy

import numpy as np
import pytest
import torch
from test_prefix import IDS, KINDS, apart, one_tree, plain, read_whole, some_tokens

from interp.errors import UserError
from interp.models.prefix import SharedPrefix
from interp.models.residual import decoder_layers, residual_changed, residual_kept

SHARED, PATH, OTHER = some_tokens(20), some_tokens(8, seed=5), some_tokens(8, seed=6)
VECTOR = np.linspace(-1, 1, 48).astype(np.float32)


def shown(model, ids) -> list[torch.Tensor]:
    """What transformers shows, [tokens, width] for each number of layers; the last one before the model's last norm."""
    last = []
    hook = decoder_layers(model)[-1].register_forward_hook(lambda module, args, output: last.append(output))
    try:
        with torch.no_grad():
            states = model(torch.tensor([ids]), use_cache=False, output_hidden_states=True).hidden_states
    finally:
        hook.remove()
    output = last[0][0] if isinstance(last[0], tuple) else last[0]
    return [state[0] for state in states[:-1]] + [output[0]]


@pytest.mark.parametrize(("family", "adapter"), KINDS, ids=IDS)
def test_the_stream_of_every_node_is_the_one_that_transformers_shows(tiny_loaded, family, adapter):
    model = tiny_loaded(family, adapter).model
    prefix = SharedPrefix(model, SHARED)
    trees = [one_tree([PATH, PATH[:3] + OTHER])[0], one_tree([OTHER])[0]]
    streams = dict(prefix.residuals(20, trees, (3, 0, 2)))
    assert streams[0].shape == (3, 16, 48) and streams[1].shape == (3, 8, 48)
    for ids, index, nodes in (
        (PATH, 0, range(8)),
        (PATH[:3] + OTHER, 0, [0, 1, 2, *range(8, 16)]),
        (OTHER, 1, range(8)),
    ):
        expected = shown(model, SHARED + ids)
        for place, layer in enumerate((3, 0, 2)):
            assert apart(streams[index][place, list(nodes)], expected[layer][20:]) < 1e-4


def swapped_by_hand(model, ids, source, layer: int, position: int, source_position: int) -> torch.Tensor:
    """Logits [tokens, vocabulary] of one plain pass in which one vector of the stream is another pass's."""
    value = shown(model, source)[layer][source_position]

    def put(stream):
        changed = stream.clone()
        changed[:, position] = value
        return changed

    with residual_changed(model, {layer: put}):
        return plain(model, ids)


@pytest.mark.parametrize("layer", [0, 1, 3])
@pytest.mark.parametrize(("family", "adapter"), KINDS, ids=IDS)
def test_a_swap_in_a_tree_is_that_of_two_plain_passes(tiny_loaded, family, adapter, layer):
    model = tiny_loaded(family, adapter).model
    prefix = SharedPrefix(model, SHARED)
    tree, (path, source) = one_tree([PATH, OTHER])
    copied = tree.branch(PATH[4:], path[3])
    tree.swaps.append((layer, copied[0], source[5]))
    neighbour = one_tree([OTHER])[0]
    after, alone = read_whole(prefix, 20, [tree, neighbour])
    expected = swapped_by_hand(model, SHARED + PATH, SHARED + OTHER, layer, 24, 25)
    assert apart(after[list(copied)], expected[24:]) < 1e-4
    assert apart(after[list(path)], plain(model, SHARED + PATH)[20:]) < 1e-4, "the path itself is as it was"
    assert apart(alone, plain(model, SHARED + OTHER)[20:]) < 1e-4
    assert apart(after[copied[0]], after[path[4]]) > 0.01, "the swap does something"


def test_a_swap_equals_that_of_transformer_lens(tiny_model):
    from interp.models.hooks import HookedModel

    model = tiny_model("llama")
    hooked = HookedModel(model)
    value = shown(model, SHARED + OTHER)[1][25]
    with hooked.activation_replaced("blocks.1.hook_resid_pre", [24], value[None, None]):
        expected = hooked.logits(torch.tensor([SHARED + PATH]))[0, 24:]
    tree, (path, source) = one_tree([PATH, OTHER])
    copied = tree.branch(PATH[4:], path[3])
    tree.swaps.append((1, copied[0], source[5]))
    (after,) = read_whole(SharedPrefix(model, SHARED), 20, [tree])
    assert apart(after[list(copied)], expected) < 1e-5


@pytest.mark.parametrize(("family", "adapter"), KINDS, ids=IDS)
def test_an_addition_is_that_of_a_plain_pass(tiny_loaded, family, adapter):
    model = tiny_loaded(family, adapter).model
    tree, (path,) = one_tree([PATH])
    copied = tree.branch(PATH[4:], path[3])
    tree.additions.append((2, copied[:2], VECTOR))
    tree.additions.append((2, copied[:1], VECTOR))
    (after,) = read_whole(SharedPrefix(model, SHARED), 20, [tree])

    def add(stream):
        changed = stream.clone()
        changed[:, 24] += 2 * torch.from_numpy(VECTOR)
        changed[:, 25] += torch.from_numpy(VECTOR)
        return changed

    with residual_changed(model, {2: add}):
        expected = plain(model, SHARED + PATH)
    assert apart(after[list(copied)], expected[24:]) < 1e-4
    assert apart(after[list(path)], plain(model, SHARED + PATH)[20:]) < 1e-4
    assert apart(after[copied[3]], after[path[7]]) > 0.001, "the addition does something"


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_cut_from_the_prefix_equals_transformer_lens_knockout(tiny_model, family):
    from interp.models.hooks import HookedModel

    model = tiny_model(family)
    tree, _ = one_tree([PATH])
    tree.prefix_knockouts.append(((5, 7), (3, 11)))
    (after,) = read_whole(SharedPrefix(model, SHARED), 20, [tree])
    hooked = HookedModel(model)
    with hooked.attention_knocked_out([25, 27], [3, 11]):
        expected = hooked.logits(torch.tensor([SHARED + PATH]))[0, 20:]
    assert apart(after, expected) < 1e-3  # another attention kernel
    assert apart(after[5], plain(model, SHARED + PATH)[25]) > 0.001, "the cut does something"


def test_streams_and_swaps_in_bfloat16_are_those_of_a_plain_pass(tiny_model):
    model = copy.deepcopy(tiny_model("llama")).bfloat16()
    tree, (path, source) = one_tree([PATH, OTHER])
    (_, streams), *_ = SharedPrefix(model, SHARED).residuals(20, [tree], (2,))
    expected = shown(model, SHARED + PATH)[2][20:]
    assert streams.dtype == torch.bfloat16
    assert apart(streams[0, list(path)].float(), expected.float()) < 0.05 * expected.abs().max()
    copied = tree.branch(PATH[4:], path[3])
    tree.swaps.append((3, copied[-1], source[-1]))
    (after,) = read_whole(SharedPrefix(model, SHARED), 20, [tree])
    assert torch.equal(after[copied[-1]], after[source[-1]]), "what enters the last norm decides what comes next"


def test_the_hooks_are_gone_after_an_exception(tiny_model):
    model = tiny_model("llama")
    hooks = [dict(kept) for layer in decoder_layers(model) for kept in (layer._forward_hooks, layer._forward_pre_hooks)]
    before = plain(model, PATH)
    with pytest.raises(ZeroDivisionError), residual_changed(model, {1: lambda stream: stream * 2, 3: torch.sin}):
        assert apart(plain(model, PATH), before) > 0.01
        1 / 0  # noqa: B018
    assert torch.equal(plain(model, PATH), before)
    after = [dict(kept) for layer in decoder_layers(model) for kept in (layer._forward_hooks, layer._forward_pre_hooks)]
    assert after == hooks


def test_layers_that_are_not_known_end_in_a_sentence(tiny_model):
    model = copy.deepcopy(tiny_model("llama"))
    with pytest.raises(ValueError, match="3 layers, so 0 to 3; not 4"), residual_kept(model, [4]):
        pass
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            module.layer_idx = None
    with pytest.raises(UserError, match="names no list of 3 layers that its residual stream passes"):
        decoder_layers(model)


def test_a_layer_that_passes_no_stream_ends_in_a_sentence(tiny_model):
    model = copy.deepcopy(tiny_model("llama"))
    with pytest.raises(UserError, match="passes no residual stream"), residual_kept(model, [1]):
        decoder_layers(model)[1](torch.zeros(3))

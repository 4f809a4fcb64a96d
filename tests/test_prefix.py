"""One prefix, many continuations: the same numbers as one plain forward pass for each."""

import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import WINDOW, examples
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UserError
from interp.models import prefix as engine
from interp.models import tree as token_trees
from interp.models.branches import Branches
from interp.models.prefix import SharedPrefix, attention_windows
from interp.models.tree import TokenTree

KINDS = [("llama", False), ("mistral", False), ("gemma2", False), ("qwen2", False), ("gemma3", False)]
KINDS += [("gpt_neox", False), ("llama", True), ("gemma2", True)]
IDS = [f"{family}{' with adapter' * adapter}" for family, adapter in KINDS]
WINDOWED = ("mistral", "gemma2", "gemma3")
TOLERANCE = 1e-4
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=5)


def some_tokens(count: int, seed: int = 0) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(5, 390) for _ in range(count)]


def continuations(count: int = 30) -> list[list[int]]:
    """Continuations of 1 to 24 tokens; every third one begins like the one before it."""
    draw = random.Random(1)
    made: list[list[int]] = []
    for i in range(count):
        own = some_tokens(draw.randint(1, 24), seed=100 + i)
        made.append([*made[-1][:3], *own][:24] if i % 3 == 2 else own)
    return made


@torch.no_grad()
def plain(model, ids) -> torch.Tensor:
    """The oracle: logits of one sequence in one forward pass without a cache."""
    return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float()


def read_whole(prefix: SharedPrefix, length: int, trees: list[TokenTree], **options) -> list[torch.Tensor]:
    """Logits after every node of each tree."""
    reads = [range(len(tree.tokens)) for tree in trees]
    found = dict(prefix.logits(length, trees, reads, **options))
    return [found[i].logits() for i in range(len(trees))]


def one_tree(paths) -> tuple[TokenTree, list[tuple[int, ...]]]:
    tree = TokenTree()
    return tree, [tree.insert(path) for path in paths]


def held(prefix: SharedPrefix) -> list[torch.Tensor]:
    """A copy of what the prefix holds of its shared prefix: keys and values of every layer."""
    return [x.clone() for kv in prefix._keys_values for x in kv]


def unchanged(before: list[torch.Tensor], prefix: SharedPrefix) -> bool:
    return all(map(torch.equal, before, held(prefix)))


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


@pytest.mark.parametrize(("family", "adapter"), KINDS, ids=IDS)
def test_a_tree_over_a_shared_prefix_equals_separate_forward_passes(tiny_loaded, monkeypatch, family, adapter):
    model = tiny_loaded(family, adapter).model
    shared_prefix = some_tokens(60)
    prefix = SharedPrefix(model, shared_prefix)
    paths = continuations()
    tree, nodes = one_tree(paths)
    assert len(shared_prefix) > WINDOW and len(tree.tokens) < sum(map(len, paths))
    (found,) = read_whole(prefix, len(shared_prefix), [tree])
    for path, at in zip(paths, nodes, strict=True):
        assert apart(found[list(at)], plain(model, shared_prefix + path)[len(shared_prefix) :]) < TOLERANCE
    if family in WINDOWED:  # positive control: without its windows the model says something else
        monkeypatch.setattr(prefix, "windows", dict.fromkeys(prefix.windows))
        (unwindowed,) = read_whole(prefix, len(shared_prefix), [tree])
        assert apart(unwindowed, found) > 0.1


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3"])
@pytest.mark.parametrize("length", [0, 1, WINDOW - 1, WINDOW, 45])
def test_any_part_of_the_opening_can_be_continued(tiny_model, family, length):
    model, shared_prefix = tiny_model(family), some_tokens(60)
    prefix = SharedPrefix(model, shared_prefix)
    paths = [some_tokens(n, seed=n) for n in (1, 5, 40)]
    tree, nodes = one_tree(paths)
    (found,) = read_whole(prefix, length, [tree])
    for path, at in zip(paths, nodes, strict=True):
        assert apart(found[list(at)], plain(model, shared_prefix[:length] + path)[length:]) < TOLERANCE


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3"])
def test_embeddings_say_the_same_as_their_tokens_and_others_do_not(tiny_model, family):
    prefix = SharedPrefix(tiny_model(family), some_tokens(30))
    trees = [one_tree([path])[0] for path in continuations(5)]
    by_ids = read_whole(prefix, 30, trees)
    embeds = [prefix.embedded(tree.tokens) for tree in trees]
    by_embeds = read_whole(prefix, 30, trees, embeds=embeds.__getitem__)
    assert max(map(apart, by_ids, by_embeds)) < 1e-5
    embeds[2] = embeds[2] * 1.5 + 0.1
    changed = list(map(apart, by_ids, read_whole(prefix, 30, trees, embeds=embeds.__getitem__)))
    assert changed[2] > 0.01 and max(changed[:2] + changed[3:]) < 1e-5


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3"])
def test_reading_on_equals_reading_at_once_and_leaves_the_shorter_prefix_as_it_was(tiny_model, family):
    model, ids = tiny_model(family), some_tokens(50)
    short = SharedPrefix(model, ids[:20])
    before = held(short)
    longer = short.extended(ids[:21]).extended(ids[:48]).extended(ids)
    tree, _ = one_tree(continuations(4))
    (step_by_step,) = read_whole(longer, 50, [tree])
    assert apart(step_by_step, read_whole(SharedPrefix(model, ids), 50, [tree])[0]) < TOLERANCE
    assert (short.shared_prefix, longer.shared_prefix) == (tuple(ids[:20]), tuple(ids))
    assert unchanged(before, short)
    with pytest.raises(ValueError, match="does not begin with the shorter"):
        longer.extended([*ids[:30], 7, *ids[31:], 8])
    with pytest.raises(ValueError, match="does not begin with the shorter"):
        longer.extended(ids[:30])


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_a_fork_that_grows_leaves_the_prefix_as_it_was(tiny_model, family):
    model, shared_prefix = tiny_model(family), some_tokens(40)
    prefix = SharedPrefix(model, shared_prefix)
    before = held(prefix)
    tree, _ = one_tree(continuations(6))
    (first,) = read_whole(prefix, 40, [tree])
    cache = prefix.fork(40, 3)
    for layer, (keys, values) in enumerate(prefix._keys_values):
        cache.update(
            torch.ones(3, *keys.shape[1:2], 2, keys.shape[3]),
            torch.ones_like(values[:, :, :2]).expand(3, -1, -1, -1),
            layer,
        )
    cache.layers[0].keys.mul_(2)
    assert cache.get_seq_length() == 42
    assert unchanged(before, prefix)
    assert torch.equal(first, read_whole(prefix, 40, [tree])[0])


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3"])
def test_trees_side_by_side_do_not_see_each_other(tiny_model, monkeypatch, family):
    prefix = SharedPrefix(tiny_model(family), some_tokens(30))
    trees = [one_tree(continuations()[i : i + 2])[0] for i in range(0, 12, 2)]
    alone = [read_whole(prefix, 30, [tree])[0] for tree in trees]
    together = read_whole(prefix, 30, trees)
    assert max(map(apart, alone, together)) < TOLERANCE
    seeing = lambda trees, layer: np.tri(sum(len(tree.tokens) for tree in trees), dtype=bool)  # noqa: E731
    monkeypatch.setattr(token_trees, "row_sight", seeing)
    assert max(map(apart, alone, read_whole(prefix, 30, trees))) > 0.1, "the mask between trees does something"


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize(("batch_tokens", "row_tokens"), [(1, 384), (60, 384), (4096, 1), (4096, 30), (4096, 384)])
def test_the_size_of_batches_and_rows_changes_no_number(tiny_model, monkeypatch, family, batch_tokens, row_tokens):
    model, shared_prefix, paths = tiny_model(family), some_tokens(30), continuations(12)
    monkeypatch.setattr(token_trees, "ROW_TOKENS", row_tokens)
    prefix = SharedPrefix(model, shared_prefix, batch_tokens=batch_tokens)
    trees = [one_tree([path])[0] for path in paths]
    for path, found in zip(paths, read_whole(prefix, 30, trees), strict=True):
        assert apart(found, plain(model, shared_prefix + path)[30:]) < TOLERANCE


def test_logits_come_in_the_order_in_which_nodes_were_asked_for(tiny_model):
    prefix = SharedPrefix(tiny_model("llama"), some_tokens(30))
    trees = [one_tree([path])[0] for path in (some_tokens(8, 1), some_tokens(3, 2), some_tokens(8, 3))]
    whole = read_whole(prefix, 30, trees)
    reads = [[7, 0, 3], [1], [2, 6]]
    for embeds in (None, lambda i: prefix.embedded(trees[i].tokens)):
        for index, found in prefix.logits(30, trees, reads, embeds):
            assert apart(found.logits(), whole[index][reads[index]]) < 1e-5
    assert apart(whole[0][7], whole[0][0]) > 0.1


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_a_cut_between_nodes_equals_transformer_lens_knockout(tiny_model, family):
    from interp.models.hooks import HookedModel

    model, shared_prefix, path = tiny_model(family), some_tokens(20), some_tokens(10, seed=5)
    prefix = SharedPrefix(model, shared_prefix)
    tree, _ = one_tree([path])
    (uncut,) = read_whole(prefix, 20, [tree])
    tree.knockouts.append(((6, 8, 9), (2, 3, 4)))
    (cut,) = read_whole(prefix, 20, [tree])
    hooked = HookedModel(model)
    with hooked.attention_knocked_out([26, 28, 29], [22, 23, 24]):
        expected = hooked.logits(torch.tensor([shared_prefix + path]))[0, 20:]
    assert apart(cut, expected) < 1e-3  # another attention kernel
    assert apart(cut[:6], uncut[:6]) < 1e-5
    assert apart(cut[6], uncut[6]) > 0.01 and apart(cut[9], uncut[9]) > 0.01, "the cut does something"


@pytest.mark.parametrize(("family", "adapter"), KINDS, ids=IDS)
def test_a_cut_in_some_layers_equals_a_mask_put_in_by_hand_there(tiny_loaded, family, adapter):
    model, shared_prefix, path = tiny_loaded(family, adapter).model, some_tokens(20), some_tokens(10, seed=5)
    prefix = SharedPrefix(model, shared_prefix)
    trees = [one_tree([path])[0] for _ in range(4)]
    trees[1].knockouts_in_layer = {1: [((6, 8, 9), (2, 3, 4))], 2: [((9,), (2,))]}
    trees[2].knockouts_in_layer = {key: [((6, 8, 9), (2, 3, 4))] for key in range(3)}
    trees[3].knockouts.append(((6, 8, 9), (2, 3, 4)))
    uncut, some, every, whole = read_whole(prefix, 20, trees)
    assert apart(every, whole) < 1e-5 and apart(uncut[9], whole[9]) > 0.01
    assert apart(some[:6], uncut[:6]) < 1e-5 < 0.001 < min(apart(some[9], uncut[9]), apart(some[9], whole[9]))

    def cut_by_hand(module, args, kwargs):
        mask = kwargs["attention_mask"].expand(-1, -1, 30, -1).clone()
        looking, looked_at = ([26, 28, 29], [22, 23, 24]) if module.layer_idx == 1 else ([29], [22])
        for query in looking:
            mask[:, :, query, looked_at] = torch.finfo(mask.dtype).min
        return args, kwargs | {"attention_mask": mask}

    windows = {"": None} | attention_windows(model)
    positions = torch.arange(30)
    distance = positions[:, None] - positions[None]
    seen = {k: (distance >= 0) & (distance < (w or 99)) for k, w in windows.items()}
    masks = {
        k: torch.zeros(30, 30).masked_fill(~s, torch.finfo(torch.float32).min)[None, None] for k, s in seen.items()
    }
    taken = [m for m in model.modules() if getattr(m, "layer_idx", None) in (1, 2) and "ttention" in type(m).__name__]
    hooks = [module.register_forward_pre_hook(cut_by_hand, with_kwargs=True) for module in taken]
    given = masks[""] if len(windows) == 1 else {k: m for k, m in masks.items() if k}
    try:
        with torch.no_grad():
            expected = model(torch.tensor([shared_prefix + path]), attention_mask=given, use_cache=False).logits[0, 20:]
    finally:
        for hook in hooks:
            hook.remove()
    assert len(taken) == 2 and apart(some, expected) < TOLERANCE
    assert torch.equal(read_whole(prefix, 20, trees[:1])[0], read_whole(prefix, 20, trees[:1])[0])


def test_the_hooks_of_layer_masks_are_gone_also_after_an_exception(tiny_model):
    model = tiny_model("llama")
    masks = {1: torch.full((1, 1, 8, 8), torch.finfo(torch.float32).min).triu(1)}
    with pytest.raises(RuntimeError, match="on the way"), engine.masked_layers(model, masks):
        raise RuntimeError("on the way")
    with pytest.raises(UserError, match="no layer 7"), engine.masked_layers(model, {1: masks[1], 7: masks[1]}):
        pass
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_gradients_along_a_path_equal_those_of_a_plain_forward_pass(tiny_model, family):
    model, shared_prefix, path = tiny_model(family), some_tokens(20), some_tokens(6, seed=5)
    prefix = SharedPrefix(model, shared_prefix)
    tree, _ = one_tree([path])
    steps = torch.stack([prefix.embedded(path) * scale for scale in (0.3, 0.7, 1.0)])
    ours, whole = steps.clone().requires_grad_(), steps.clone().requires_grad_()
    found = prefix.path_logits(20, tree, [5, 2], ours).logits()
    before = prefix.embedded(shared_prefix).expand(3, -1, -1)
    expected = model(inputs_embeds=torch.cat([before, whole], 1), use_cache=False).logits[:, [25, 22]]
    assert apart(found, expected) < TOLERANCE
    (one,) = torch.autograd.grad(found[..., 7].sum(), ours)
    (other,) = torch.autograd.grad(expected[..., 7].sum(), whole)
    assert one.abs().max() > 0.01
    assert apart(one, other) < 1e-3 * one.abs().max().item()


# Trees, batches and masks: no model


@pytest.mark.slow
@given(st.lists(TOKENS, min_size=1, max_size=8))
def test_a_tree_holds_every_path_and_each_common_beginning_once(paths):
    tree, nodes = one_tree(paths)
    for path, at in zip(paths, nodes, strict=True):
        assert [tree.tokens[node] for node in at] == path
        assert [tree.depths[node] for node in at] == list(range(len(path)))
        assert [tree.parents[node] for node in at] == [-1, *at[:-1]]
    assert len(tree.tokens) == len({tuple(path[: i + 1]) for path in paths for i in range(len(path))})


@given(st.lists(TOKENS, min_size=1, max_size=8))
def test_a_node_sees_itself_and_its_ancestors_and_no_other(paths):
    tree, _ = one_tree(paths)
    seen = tree.sight()
    for node in range(len(tree.tokens)):
        ancestors, above = {node}, tree.parents[node]
        while above >= 0:
            ancestors.add(above)
            above = tree.parents[above]
        assert set(np.flatnonzero(seen[node])) == ancestors


def test_a_path_may_go_on_below_a_node_and_a_cut_takes_only_what_is_named():
    tree, ((a, b),) = one_tree([[1, 2]])
    assert tree.insert([3, 4], after=a) == (2, 3)
    assert tree.insert([2, 3], after=a) == (b, 4)
    tree.knockouts.append(((3, 4), (a, b)))
    assert tree.sight().astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 120))
def test_batches_hold_every_item_once_and_at_most_so_many_tokens_after_padding(sizes, most):
    batches = list(SharedPrefix.batches(SimpleNamespace(batch_tokens=most), sizes))
    assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == 1 or max(sizes[i] for i in batch) * len(batch) <= most
    assert [sizes[i] for batch in batches for i in batch] == sorted(sizes, reverse=True)


@given(st.lists(TOKENS, min_size=1, max_size=5), TOKENS)
@examples(200)
def test_what_is_shared_is_the_longest_common_beginning_that_leaves_each_a_token(sequences, shared_prefix):
    shared = SharedPrefix.shared_length(
        SimpleNamespace(shared_prefix=tuple(shared_prefix)), [tuple(s) for s in sequences]
    )
    fits = [
        n
        for n in range(len(shared_prefix) + 1)
        if all(len(s) > n and list(s[:n]) == shared_prefix[:n] for s in sequences)
    ]
    assert shared == max(fits)


def test_a_window_lets_a_token_see_itself_and_the_ones_before_it():
    here = SimpleNamespace(windows={"full_attention": None, "sliding_attention": 2})
    here._additive = lambda seen: torch.from_numpy(seen[:, None])
    seen, positions = np.tri(4, dtype=bool)[None], np.arange(4)[None]
    made = SharedPrefix.masks(here, seen, positions, positions)
    assert made["full_attention"].int()[0, 0].tolist() == np.tri(4, dtype=int).tolist()
    assert made["sliding_attention"].int()[0, 0].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_layers_of_an_unknown_kind_are_refused_by_name(tiny_model):
    model = copy.copy(tiny_model("gemma2"))
    model.config = copy.copy(model.config)
    model.config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    with pytest.raises(UserError, match="Gemma2ForCausalLM has layers of the kind linear_attention, which is not supp"):
        attention_windows(model)
    assert attention_windows(tiny_model("llama")) == {"": None}
    assert attention_windows(tiny_model("mistral")) == {"": WINDOW}
    assert attention_windows(tiny_model("gemma2")) == {"full_attention": None, "sliding_attention": WINDOW}


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3"])
@pytest.mark.parametrize("row_tokens", [1, 30, 384])
def test_copies_that_grow_side_by_side_equal_plain_forward_passes(tiny_model, monkeypatch, family, row_tokens):
    model, shared_prefix = tiny_model(family), some_tokens(20)
    monkeypatch.setattr(token_trees, "ROW_TOKENS", row_tokens)
    prompts = [shared_prefix + some_tokens(n, seed=n) for n in (3, 9, 25)]
    copies = [0, 1, 0, 2, 1, 0]
    texts = [list(prompts[number]) for number in copies]
    branches = Branches(SharedPrefix(model, shared_prefix), len(shared_prefix), prompts, copies)
    for text, found in zip(texts, branches.logits, strict=True):
        assert apart(found, plain(model, text)[-1]) < TOLERANCE
    draw = random.Random(2)
    for alive in ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [1, 2, 3, 5], [3, 5], [5]):
        tokens = [draw.randrange(5, 390) for _ in alive]
        for number, token in zip(alive, tokens, strict=True):
            texts[number].append(token)
        for number, found in zip(alive, branches.grown(np.array(alive), tokens), strict=True):
            assert apart(found, plain(model, texts[number])[-1]) < TOLERANCE
    assert apart(plain(model, texts[0])[-1], plain(model, texts[2])[-1]) > 0.1, "copies of a prompt went apart"


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3", "gpt_neox"])
@pytest.mark.parametrize(("row_tokens", "batch_tokens"), [(384, 2048), (24, 40)])
def test_what_was_read_of_prompts_can_be_continued_from_any_of_their_tokens(
    tiny_model, monkeypatch, family, row_tokens, batch_tokens
):
    model, shared_prefix = tiny_model(family), some_tokens(20)
    monkeypatch.setattr(token_trees, "ROW_TOKENS", row_tokens)
    prefix = SharedPrefix(model, shared_prefix, batch_tokens=batch_tokens)
    prompts = [shared_prefix + some_tokens(length, seed) for seed, length in enumerate((6, 9, 4, 12), 50)]
    branches = Branches(prefix, 20, prompts, [0, 1, 2, 3, 1])
    read = branches.read()
    branches.grown(np.arange(5), [7, 8, 9, 10, 11])  # what was read stays as it was
    branches.grown(np.array([1, 4]), [12, 13])
    owners, lengths = [1, 3, 1, 0], [len(prompts[1]), 22, len(prompts[1]) - 1, len(prompts[0])]
    paths = continuations(4)
    trees = [one_tree([path])[0] for path in paths]
    reads = [range(len(tree.tokens)) for tree in trees]
    found = dict(read.logits(owners, lengths, trees, reads))
    assert sorted(found) == [0, 1, 2, 3]
    for i, (owner, length, path) in enumerate(zip(owners, lengths, paths, strict=True)):
        expected = plain(model, prompts[owner][:length] + path)[length:]
        assert apart(found[i].logits(), expected) < TOLERANCE


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_trees_of_one_batch_may_continue_more_or_less_of_the_opening(tiny_model, family):
    model, shared_prefix, paths = tiny_model(family), some_tokens(30), continuations(4)
    prefix, trees = SharedPrefix(model, shared_prefix), [one_tree([path])[0] for path in paths]
    lengths = [30, 0, 17, 4]
    reads = [range(len(tree.tokens)) for tree in trees]
    found = dict(prefix.logits(lengths, trees, reads))
    for i, (length, path) in enumerate(zip(lengths, paths, strict=True)):
        assert apart(found[i].logits(), plain(model, shared_prefix[:length] + path)[length:]) < TOLERANCE


def test_a_branch_is_shared_with_no_other_path():
    tree = TokenTree()
    first = tree.insert([1, 2, 3])
    apart_path = tree.branch([2, 3], first[0])
    assert tree.insert([1, 2, 3]) == first and not set(apart_path) & set(first)
    assert tree.insert([4], apart_path[-1])[0] == len(tree.tokens) - 1
    assert tree.sight()[apart_path[1]].nonzero()[0].tolist() == [first[0], *apart_path]

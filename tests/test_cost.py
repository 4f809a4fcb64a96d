"""Cost: predictions against what the engine is fed, a counter of FLOPs, the tensors that are held, and a clock."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from figures.cost import rows, short, span, whole
from interp import attribution, jsd, loads, masking, rollout
from interp.cost import KNOWN, Cost, configuration, cost_of, lengths_of, sizes
from interp.elicitation import slot_replies
from interp.errors import UserError
from interp.hooks import merged_twin
from interp.machine import Machine, named
from interp.prefix import SharedPrefix, TokenTree
from interp.setting import Case
from training.cost import TrainingCost, training_cost, training_loads
from training.recipes import ADVICE_RECIPES, TrainingOptions


@contextmanager
def fed(model: torch.nn.Module) -> Iterator[dict[str, int]]:
    """Counts the tokens that a model is fed, padding included, and its passes."""
    seen = {"tokens": 0, "passes": 0, "with_gradient": 0}

    def count(module, args, kwargs) -> None:
        given = next(x for x in (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if x is not None)
        seen["tokens"] += given.shape[0] * given.shape[1]
        seen["with_gradient"] += given.shape[0] * given.shape[1] * given.requires_grad
        seen["passes"] += 1

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def tokens(of: loads.Loads) -> float:
    return sum(load.tokens for load in of)


@pytest.fixture(scope="module")
def lengths(taught_setting, open_questions):
    return lengths_of(taught_setting.prompter, open_questions, fillers=3)


@pytest.fixture(scope="module")
def cases(open_questions):
    return tuple(
        Case(q, q.answers[0], tuple(open_questions[(i + k) % 12].answers[0] for k in (3, 6)))
        for i, q in enumerate(open_questions)
    )


def with_candidates(cases, count):
    others = [case.answer for case in cases]
    return [
        replace(case, candidates=tuple((others[i:] + others[:i])[:count]), wanted_candidates=count)
        for i, case in enumerate(cases)
    ]


@pytest.mark.parametrize("candidates", [0, 6])
def test_the_tokens_of_jsd_are_those_that_the_engine_feeds(taught_setting, cases, lengths, candidates):
    put = with_candidates(cases, candidates) if candidates else cases
    setting = replace(taught_setting, pool=tuple(case.question for case in cases))
    with fed(setting.checkpoint.model) as seen:
        jsd.measured(setting, put[:8])
    (told,) = loads.jsd(8, lengths, 2048, candidates)
    assert told.tokens == pytest.approx(seen["tokens"], rel=0.2)
    assert told.passes == pytest.approx(seen["passes"], abs=1)


def test_the_tokens_of_masking_are_those_that_the_engine_feeds(taught_setting, cases, lengths):
    with fed(taught_setting.checkpoint.model) as seen:
        masking.measured(taught_setting, cases)
    told = loads.masking(len(cases), lengths, 2048)
    assert tokens(told) == pytest.approx(seen["tokens"], rel=0.2)
    assert sum(load.passes for load in told) == seen["passes"]


def test_the_tokens_of_rollout_are_those_that_the_hooked_model_is_fed(taught_setting, cases, lengths):
    hooked = rollout.hooked_model(taught_setting)
    with fed(hooked.bridge.original_model) as seen:
        rollout.measured(taught_setting, cases[:4])
    assert tokens(loads.rollout(4, lengths)) == pytest.approx(seen["tokens"], rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["answer", "tokens", "prompt"])
def test_the_tokens_of_attribution_are_those_that_the_engine_feeds(taught_setting, cases, path, monkeypatch):
    settles = -1.0 if path == "prompt" else 10.0  # how many nodes are needed is the model's affair; the formula assumes
    monkeypatch.setattr(attribution, "gap_allowed", lambda effect, score_range: settles)
    asked = cases[:6]
    with fed(taught_setting.checkpoint.model) as seen:
        attribution.measured(taught_setting, asked, path=path)
    of_these = lengths_of(taught_setting.prompter, [case.question for case in asked], fillers=3)
    told = loads.attribution(len(asked), of_these, 2048, path)
    assert tokens(told) == pytest.approx(seen["tokens"], rel=0.2)
    assert sum(load.tokens for load in told if load.backward) == pytest.approx(seen["with_gradient"], rel=0.2)


def test_the_tokens_of_answers_are_those_that_the_engine_feeds(taught_setting, open_questions, lengths):
    with fed(taught_setting.checkpoint.model) as seen:
        slot_replies(taught_setting.generator, taught_setting.prompter, open_questions)
    told = loads.written(len(open_questions), 64, 1, lengths, 2048)
    assert tokens(told) == pytest.approx(seen["tokens"], rel=0.2)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_forward_and_backward_flops_are_those_that_a_counter_sees(tiny_model, family):
    model = merged_twin(tiny_model(family))  # eager: the counter does not know the fused kernel of processors
    of, size, many = sizes(model.config), 60, 40
    prefix, tree = SharedPrefix(model, range(size)), TokenTree()
    path = tree.insert(range(many))
    told = loads.Load(1, many, size + many, 10, many, backward=1.0).flops(of)
    embeds = prefix.embedded(tree.tokens)[None].clone().requires_grad_()
    with FlopCounterMode(display=False) as forward:
        logits = prefix.path_logits(size, tree, path[-10:], embeds)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert told[0] == pytest.approx(forward.get_total_flops(), rel=0.03)
    assert told[1] == pytest.approx(backward.get_total_flops(), rel=0.1)


def test_what_is_kept_for_a_gradient_is_what_autograd_saves(tiny_model):
    model = tiny_model("llama")
    of, many = sizes(model.config), 40
    prefix, tree = SharedPrefix(model, range(8)), TokenTree()
    last = tree.insert(range(many))[-1:]
    weights = {w.untyped_storage().data_ptr() for w in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    embeds = prefix.embedded(tree.tokens)[None].clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = prefix.path_logits(8, tree, last, embeds)
    assert many * of.layers * of.activation_bytes(4) == pytest.approx(sum(saved.values()), rel=0.3)
    assert kept.requires_grad


class Live(TorchDispatchMode):
    """The most bytes of tensors made under it that were alive at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.most, self._alive = 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        from torch.multiprocessing.reductions import StorageWeakRef

        made = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self._alive = {key: one for key, one in self._alive.items() if not one[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._alive.values()))
        return made


def test_the_attention_that_rollout_holds_is_one_layers_scores_and_all_layers_means(taught_setting, cases):
    hooked = rollout.hooked_model(taught_setting)
    of = sizes(taught_setting.checkpoint.model.config)
    width, together = 400, 4
    prompts = [tuple(i % 300 for i in range(width))] * together
    with Live() as live:
        means = hooked.head_means(prompts)
    told = loads.Load(1, together * width, width, together, together * width, rows=together, eager=True)
    assert told.attention_bytes(of, 4) == pytest.approx(live.most, rel=0.35)
    kept = sum(layer.nbytes for one in means for layer in one._packed)
    assert told.kept_bytes(of) == pytest.approx(kept, rel=0.02)


def test_the_papers_models_have_the_parameters_that_their_names_say():
    counted = {name: sizes(configuration(Cost(architecture=name))).parameters / 1e9 for name in KNOWN}
    assert counted == pytest.approx({"llama-3.1-8b": 8.03, "mistral-7b": 7.25, "gemma-2-9b": 9.24}, abs=0.01)


LINE = loads.Lengths(100, 20, 2, 2, 4, 11, 30, (100.0,), 0.5, 2, 2, 3)
SMALL = loads.Architecture(1100, 1000, 2, 4, 8, 2, 1, 2, 10)


def test_flops_worked_by_hand():
    load = loads.Load(1, 3, 5, 2, 3, backward=1.0)
    scores = 4 * 2 * 2 * 2 * 5 * 3  # layers, heads, width of a head, keys, queries
    assert load.flops(SMALL) == (2 * 1000 * 3 + scores + 2 * 4 * 10 * 2, 2 * 1000 * 3 + 2 * scores + 2 * 4 * 10 * 2)


def test_seconds_are_latency_and_compute_and_bookkeeping():
    on = Machine("x", 4, pass_seconds=0.5, forward=1e3, backward=1e2, head=1e1, score=0.0)
    load = loads.Load(2, 3, 0, 1, 3)
    assert on.seconds(load, SMALL) == pytest.approx(2 * 0.5 + 6000 / 1e3 + 80 / 1e1, rel=1e-3)
    back = replace(load, backward=1.0)
    assert on.seconds(back, SMALL) - on.seconds(load, SMALL) == pytest.approx(2 * 0.5 + 6080 / 1e2, rel=1e-3)


def test_more_candidates_and_more_tries_cost_more_and_choices_need_no_samples():
    asked = [tokens(loads.sampled(10, LINE, k, tries, 2048)) for k, tries in ((2, 8), (8, 48), (30, 48), (30, 96))]
    assert asked == sorted(set(asked))
    assert tokens(loads.jsd(10, LINE, 2048, 30)) > tokens(loads.jsd(10, LINE, 2048, 8))
    assert loads.sampled(10, replace(LINE, choices=4), 4, 48, 2048) == ()


def test_training_is_as_many_updates_as_the_recipe_makes():
    options = TrainingOptions(out=Path())
    paper = training_loads(ADVICE_RECIPES["paper"], options, 2936, [LINE, LINE], layers=2, processes=1, ranked=8)
    assert sum(load.passes for load in paper["updates"]) == 2 * -(-2936 // 16) * 4
    shared = training_loads(ADVICE_RECIPES["paper"], options, 2936, [LINE, LINE], layers=2, processes=8, ranked=8)
    assert tokens(shared["updates"]) == pytest.approx(tokens(paper["updates"]) / 8, rel=0.02)


def test_an_accelerator_with_more_bandwidth_is_no_slower():
    of = sizes(configuration(Cost(architecture="llama-3.1-8b")))
    load = loads.Load(100, 100, 200, 100, 1)
    assert named("h200", of).seconds(load, of) <= named("a100", of).seconds(load, of)


BAD = {
    ("--accuracy", "0"): "--accuracy 0.0: must lie in (0, 1]",
    ("--accelerators", "8"): "--accelerators 8: name their kind by --accelerator",
    ("--accelerators", "0"): "--accelerators 0: must be at least 1",
    ("--architecture", "llama-9"): "--architecture llama-9: neither a configuration's file nor one of llama-3.1-8b",
    ("--n-evaluation", "-1"): "--n-evaluation -1: must be at least 0",
    ("--data", "no-such-data"): "--data no-such-data: neither a file nor one of facts",
    ("--ckpt", "no/such/checkpoint/here"): "--ckpt no/such/checkpoint/here: neither a directory",
}


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, tmp_path):
    command = [sys.executable, "-m", "interp.cost", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert BAD[arguments] in done.stderr


def test_a_file_that_is_no_configuration_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    with pytest.raises(UserError, match="no configuration can be read"):
        configuration(Cost(architecture=str(path)))


@pytest.mark.slow
def test_the_command_prices_a_model_that_is_not_here_and_writes_what_it_rests_on(taught_checkpoint, own_data, tmp_path):
    config = taught_checkpoint / "config.json"
    command = [sys.executable, "-m", "training.cost", "--ckpt", str(taught_checkpoint), "--architecture", str(config)]
    command += ["--data", str(own_data / "open.jsonl"), "--accelerator", "h100", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for part in ("interp.diagnose", "attribution", "training.advice", "nothing measured", "fits in 80 GB"):
        assert part in done.stdout
    told = json.loads((tmp_path / "cost.json").read_text())
    assert {part["command"] for part in told["parts"]} == {
        "interp.diagnose",
        "interp.evaluate",
        "training.triplets",
        "training.advice",
    }


@pytest.mark.slow
def test_choices_are_priced_without_samples_and_without_training(taught_checkpoint, own_data):
    told = cost_of(Cost(ckpt=str(taught_checkpoint), data=str(own_data / "choices.jsonl"), device="cpu"))
    parts = [(part["command"], part["part"]) for part in told["parts"]]
    assert ("interp.diagnose", "wrong answers") not in parts and ("interp.diagnose", "jsd") in parts
    with pytest.raises(UserError, match="triplets are made of open questions"):
        training_cost(TrainingCost(ckpt=str(taught_checkpoint), data=str(own_data / "choices.jsonl"), device="cpu"))


def test_a_whole_is_the_sum_of_its_parts_but_for_what_is_held_at_a_time():
    part = {"command": "c", "passes": 1, "tokens": 2, "flops": 3, "attention": 4, "peak": 5, "seconds": 6}
    one, other = part | {"part": "a"}, part | {"part": "b", "peak": 9, "seconds": 2}
    assert whole([one, other]) == {
        "passes": 2,
        "tokens": 4,
        "flops": 6,
        "seconds": 8,
        "attention": 4,
        "peak": 9,
    }
    assert [row[0] for row in rows([one, other, part | {"command": "d", "part": "a"}])] == [
        "c",
        "  a",
        "  b",
        "d",
        "  a",
    ]
    assert [row[-1] for row in rows([one, other])] == ["100%", "75%", "25%"]


def test_quantities_are_read_with_three_digits():
    told = {999: "999 ", 12345: "12.3 k", 8.03e9: "8.03 G", 1.5e16: "15 P"}
    assert {value: short(value) for value in told} == told
    assert [span(seconds) for seconds in (5, 300, 9000)] == ["5.0 s", "5.0 min", "2.5 h"]


@pytest.mark.real_model
def test_the_time_of_every_instrument_is_predicted_within_a_factor_of_three():
    from interp.checkpoints import Loading, loaded_checkpoint
    from interp.diagnose import asked_for
    from interp.embedded import EMBEDDED_NAME
    from interp.formats import FORMATS
    from interp.questions import loaded_questions, shuffled
    from interp.setting import prepared

    options = Cost(n=8, candidates=0, n_attribution=1, device="cpu")
    told = {part["part"]: part["seconds"] for part in cost_of(options)["parts"] if "diagnose" in part["command"]}
    questions = shuffled(loaded_questions("facts"), 0)
    checkpoint = loaded_checkpoint(EMBEDDED_NAME, Loading(device="cpu"))
    setting = prepared(checkpoint, FORMATS["ScoreNumber"], shots=3, pool=questions)
    cases = [Case(q, q.answers[0], tuple(o.answers[0] for o in questions[20:22])) for q in questions[:8]]
    rollout.hooked_model(setting)
    ways = {
        "answers": lambda: asked_for(setting, questions[:64], free=False),
        "jsd": lambda: jsd.measured(setting, cases),
        "rollout": lambda: [rollout.measured(setting, cases[i : i + 4]) for i in (0, 4)],
        "masking": lambda: masking.measured(setting, cases),
        "attribution": lambda: attribution.measured(setting, cases[:1]),
    }
    for name, way in ways.items():
        begun = time.perf_counter()
        way()
        measured = time.perf_counter() - begun
        assert measured / 3 < told[name] < measured * 3, (name, told[name], measured)

"""Known-bad changes, planted one by one in a copy of the tree: each must be found by the tests of its own room.

`python -m tests.mutants` plants all of them, `python -m tests.mutants rollout` those of one room, or one by its name.
Exit code 0: every one was found; 1: one survived, a hole in the tests; 2: one could not be judged."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = (".*", "__pycache__", "*.egg-info", "results", "runs", "build", "dist")
"""What is not copied: nothing that a test reads."""
PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-m", "not real_model")
PATIENCE = 900
"""Seconds after which a room that still runs counts as broken."""
FOUND = re.compile(r"^(?:FAILED|ERROR) \S*?::(.+?)(?: - (.*))?$", re.MULTILINE)
MISPRINTS = ("NameError", "UnboundLocalError", "SyntaxError", "ImportError", "ModuleNotFoundError")
"""What a mutant that is no program raises, which finds no wrong number."""


@dataclass(frozen=True)
class Mutant:
    """A change that leaves a program that runs and gives other numbers."""

    name: str
    """Unique, without blanks."""
    file: str
    """The file that it changes, from the root."""
    function: str
    """The function or method that it changes, as `Class.method`; empty for what a module does when it is imported."""
    before: str
    """An expression or a statement that stands exactly once in it, however it is laid out."""
    after: str
    """What takes its place; nothing for a statement that is left out."""
    tests: tuple[str, ...]
    """The test files, or single tests, of its room: those that have to find it."""

    @property
    def room(self) -> str:
        """The name of the module that it changes."""
        return Path(self.file).stem

    def planted(self, text: str) -> str:
        """The file's program with the change. Errors: ValueError where `before` does not stand there exactly once."""
        tree = ast.parse(text)
        swap = Swap(_code(self.before)[0], _code(self.after))
        swap.generic_visit(_function(tree, self.function) if self.function else tree)
        if swap.times != 1:
            where = f"{self.function or 'the module'} of {self.file}"
            raise ValueError(f"{self.name}: {self.before!r} stands {swap.times} times in {where}, not once")
        return ast.unparse(tree)


class Swap(ast.NodeTransformer):
    """Puts code in the place of every expression or statement that is the same but for its layout."""

    def __init__(self, before: ast.AST, after: list[ast.AST]) -> None:
        self.before, self.after = _shape(before), after
        self.times = 0

    def visit(self, node: ast.AST) -> ast.AST | list[ast.AST]:
        """The node, or what takes its place."""
        if isinstance(node, ast.expr | ast.stmt) and _shape(node) == self.before:
            self.times += 1
            return self.after if isinstance(node, ast.stmt) else self.after[0]
        return self.generic_visit(node)


def _shape(node: ast.AST) -> str:
    """Equal for equal code, whether a name is read or written in it."""
    return re.sub(r"ctx=\w+\(\)", "", ast.dump(node))


def _code(text: str) -> list[ast.AST]:
    """An expression, or statements; no text is the statement that does nothing."""
    try:
        return [ast.parse(text.strip(), mode="eval").body]
    except SyntaxError:
        return [*ast.parse(text or "pass").body]


def _function(tree: ast.Module, name: str) -> ast.AST:
    """The function or method of that name. Errors: ValueError where there is none."""
    scope: ast.AST = tree
    for part in name.split("."):
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        inside = [node for node in ast.iter_child_nodes(scope) if isinstance(node, kinds) and node.name == part]
        if not inside:
            raise ValueError(f"there is no {name}")
        scope = inside[-1]  # after overloads of it
    return scope


@dataclass(frozen=True)
class Verdict:
    """What the tests say of a tree."""

    outcome: Literal["killed", "survived", "broken"]
    """killed: a test failed. survived: all passed. broken: they could not run, so that nothing is known."""
    told: str
    """The test that failed, or what went wrong."""


def judged(tests: Sequence[str], root: Path, mutant: Mutant | None = None) -> Verdict:
    """What the tests say of a copy of the tree with the change in it; without one, of the tree as it is."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as made:
        tree = Path(made) / "tree"
        shutil.copytree(root, tree, ignore=shutil.ignore_patterns(*LEFT_OUT))
        if mutant:
            changed = tree / mutant.file
            changed.write_text(mutant.planted(changed.read_text(encoding="utf-8")), encoding="utf-8")
        try:
            ran = subprocess.run(
                [sys.executable, *PYTEST, *tests],
                cwd=tree,
                env=os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Verdict("broken", f"no end within {PATIENCE} s")
    return verdict_of(ran.returncode, ran.stdout + ran.stderr)


def verdict_of(code: int, output: str) -> Verdict:
    """pytest's exit code: 0 is a survivor, 1 a kill unless the mutant is no program; all others say nothing."""
    found = FOUND.search(output)
    if code == 0:
        return Verdict("survived", "all tests passed")
    if code == 1 and found and not (found[2] or "").startswith(MISPRINTS):
        return Verdict("killed", found[1])
    return Verdict("broken", f"pytest ended with {code}: {found[0] if found else output.strip()[-300:]}")


def chosen(names: Sequence[str]) -> list[Mutant]:
    """The mutants of these names or rooms, all where there are none. Errors: ValueError for a name that is neither."""
    known = {name for mutant in MUTANTS for name in (mutant.name, mutant.room)}
    if unknown := sorted(set(names) - known):
        raise ValueError(f"{unknown[0]!r} is neither a mutant nor a room: {', '.join(sorted(known))}")
    return [mutant for mutant in MUTANTS if not names or {mutant.name, mutant.room} & set(names)]


def whole(mutants: Sequence[Mutant]) -> tuple[str, ...]:
    """The tests of all their rooms, each once: a file stands for the single tests in it."""
    named = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
    return tuple(test for test in named if "::" not in test or test.partition("::")[0] not in named)


@dataclass(frozen=True)
class Options:
    """Plant known-bad changes and see whether the tests of their rooms find them."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Mutants or rooms; all by default."""

    at_once: int = min(os.cpu_count() or 1, 8)
    """How many to judge at a time; each takes a core and about a gigabyte of memory."""


def planted(options: Options, root: Path = ROOT) -> int:
    """Plants the mutants and prints what became of each; gives the exit code."""
    try:
        mutants = chosen(options.names)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("first, the tests without a mutant", flush=True)
    if (green := judged(whole(mutants), root)).outcome != "survived":
        print(f"error: they are not green without one: {green.told}", file=sys.stderr)
        return 2
    counts = {"killed": 0, "survived": 0, "broken": 0}
    began = time.monotonic()
    with ThreadPoolExecutor(options.at_once) as pool:
        try:
            verdicts = pool.map(lambda mutant: judged(mutant.tests, root, mutant), mutants)
            for number, (mutant, verdict) in enumerate(zip(mutants, verdicts, strict=True), 1):
                counts[verdict.outcome] += 1
                left = (time.monotonic() - began) / number * (len(mutants) - number)
                told = f"{verdict.outcome:8}  {mutant.room}: {mutant.name} ({verdict.told})"
                print(f"{number}/{len(mutants)}, {left / 60:.0f} min left  {told}", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return 2 if counts["broken"] else 1 if counts["survived"] else 0


MERGED = (
    "test_processes.py::test_shares_of_a_launch_that_died_are_merged_in_the_questions_order",
    "test_processes.py::test_shares_of_another_measure_wait_for_their_turn",
)


def _of(file: str, tests: Sequence[str], *changes: tuple[str, str, str, str]) -> tuple[Mutant, ...]:
    """The mutants of one file: (name, function, before, after)."""
    named = tuple(f"tests/{test}" for test in tests)
    return tuple(Mutant(name, file, function, before, after, named) for name, function, before, after in changes)


MUTANTS: tuple[Mutant, ...] = (
    *_of(
        "interp/models/checkpoints.py",
        ["test_masking.py"],
        (
            "the-mean-of-the-table-not-of-what-layers-receive",
            "Checkpoint.mean_embedding",
            "table(part)",
            "table.weight[part]",
        ),
    ),
    *_of(
        "interp/divergence.py",
        ["test_jsd.py"],
        (
            "mean-of-two-divergences-without-the-mixture",
            "jensen_shannon",
            "_relative_entropy(p, mixture) + _relative_entropy(q, mixture)",
            "_relative_entropy(p, q) + _relative_entropy(q, p)",
        ),
        ("bits-instead-of-nats", "_relative_entropy", "np.log", "np.log2"),
    ),
    *_of(
        "interp/instruments/jsd.py",
        ["test_jsd.py"],
        ("a-tenth-is-not-near-zero", "_of_source", "operator.le", "operator.lt"),
        (
            "direction-turned-round",
            "_against",
            "right[0]['expected'] - wrong[0]['expected']",
            "wrong[0]['expected'] - right[0]['expected']",
        ),
        (
            "two-wrong-answers-are-a-right-and-a-wrong-one",
            "values",
            "between(sampled[:1], sampled[1:2])",
            "between(right, sampled[1:2])",
        ),
        ("a-pair-at-a-tenth-is-not-near-zero", "_of_pairs", "divergences <= NEAR_ZERO", "divergences < NEAR_ZERO"),
        (
            "sources-are-pooled",
            "values",
            "(by_role.get('wrong', []), by_role.get('branched', []))",
            "[by_role.get('wrong', []) + by_role.get('branched', [])] * 2",
        ),
        ("pairs-are-of-branched-answers-too", "", "('candidate',)", "('candidate', 'filled')"),
        (
            "foils-that-may-be-right",
            "distractors",
            ("kind not in answers and fits and (donor.id != question.id) and (not may_be_right(question, answer))"),
            "kind not in answers and fits and (donor.id != question.id)",
        ),
    ),
    *_of(
        "interp/instruments/rollout.py",
        ["test_rollout.py"],
        ("no-residual", "rollout_row", "(weights + weights @ layer) / 2", "weights @ layer"),
        (
            "a-third-of-attention",
            "rollout_row",
            "(weights + weights @ layer) / 2",
            "(2 * weights + weights @ layer) / 3",
        ),
        ("rows-that-double", "rollout_row", "(weights + weights @ layer) / 2", "weights + weights @ layer"),
        ("first-layer-read-first", "rollout_row", "reversed(layers)", "layers"),
        (
            "null-without-residual",
            "uniform_rollout_row",
            "(weights + per_seen[::-1].cumsum()[::-1]) / 2",
            "per_seen[::-1].cumsum()[::-1]",
        ),
        ("null-sees-one-token-more", "uniform_rollout_row", "np.arange(1, tokens + 1)", "np.arange(2, tokens + 2)"),
        ("the-rest-is-not-renormalised", "without_first", "kept / total if total > 0 else kept", "kept"),
        (
            "the-answers-row-is-the-confidences",
            "_record",
            "rollout_row(layers, answer_row)",
            "rollout_row(layers, row)",
        ),
        ("the-blank-before-the-levels-is-not-read", "_reading_row", "common_length(suffixes)", "0"),
        ("sums-called-means-per-token", "_span_values", "mass / spans.count(span)", "mass"),
        ("the-sinks-mass-of-the-last-layer-alone", "sink_mass", "1 - weights.sum()", "(1 - weights.sum()) / 2"),
        ("a-sink-for-every-model", "_record", "layers.sinks", "True"),
    ),
    *_of(
        "interp/models/attention.py",
        ["test_attention.py"],
        ("one-head-for-all", "head_means", "weights.mean(1, dtype=torch.float32)", "weights[:, 0].float()"),
        ("means-in-half-precision", "head_means", "weights.mean(1, dtype=torch.float32)", "weights.mean(1).float()"),
        ("padded-on-the-left-without-positions", "head_means", "ids[row, :len(prompt)]", "ids[row, -len(prompt):]"),
        ("every-row-sums-to-1", "head_means", "not sinks", "True"),
        ("no-causal-mask", "", "AttentionMaskInterface.register(SHOWN, eager_mask)", ""),
        ("shown-for-ever", "attention_shown", "config._attn_implementation = implementation", "pass"),
    ),
    *_of(
        "interp/models/adapters.py",
        ["test_adapters.py"],
        ("modules-are-not-put-back", "Kept.restored", "for restore in self._restorers:\n    restore()", ""),
        ("storage-is-not-put-back", "Kept.restored", "tensor.data = data", "pass"),
        (
            "what-was-written-into-stays",
            "Kept.restored",
            ("not self._spread and all((tensor._version == version for tensor, _, version in self._tensors))"),
            ("not self._spread or all((tensor._version == version for tensor, _, version in self._tensors))"),
        ),
        (
            "rows-that-no-file-gave-are-kept",
            "with_adapter",
            "if added:\n    _refuse_unknown_rows(model, folder, added)",
            "if False:\n    _refuse_unknown_rows(model, folder, added)",
        ),
    ),
    *_of(
        "interp/models/hooks.py",
        ["test_hooks.py"],
        ("what-is-merged-into-the-head-reaches-the-embeddings", "_merged", "_untie(copied)", ""),
        ("the-adapter-is-left-out", "_merged", "peft.merge_and_unload", "peft.unload"),
        ("cut-in-the-first-layer-only", "HookedModel.attention_knocked_out", "self.layers", "1"),
    ),
    *_of(
        "interp/models/prompts.py",
        ["test_prompts.py"],
        ("spans-off-by-one", "Prompter._tokenised", "end - 1", "min(end, len(owner) - 1)"),
        ("straddling-tokens-go-to-the-earlier-span", "Prompter._tokenised", "end - 1", "start"),
        (
            "level-without-the-blank-before-it",
            "Prompter.level_suffixes",
            "f'{transcript.text} {level}'",
            "f'{transcript.text}{level}'",
        ),
        ("one-wording-for-all", "Prompter._turns", "self.wording", "0"),
    ),
    *_of(
        "interp/models/tree.py",
        ["test_prompts.py"],
        (
            "common-beginning-one-token-long",
            "common_length",
            "(i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)",
            "(i + 1 for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)",
        ),
    ),
    *_of(
        "interp/models/shots.py",
        ["test_prompts.py"],
        ("examples-in-rising-confidence", "shot_set", "draw.shuffle(ranks)", ""),
    ),
    *_of(
        "interp/models/templates.py",
        ["test_templates.py"],
        (
            "the-slot-of-the-prompt-for-generation",
            "ChatTemplate._slot",
            "self._first(roles, LAST, EARLIER, GENERATION)",
            "self._first(roles, GENERATION)",
        ),
        ("a-thought-is-let-pass", "ChatTemplate._slot", "opens_thought(prompt)", "False"),
        (
            "the-last-turns-end-alone",
            "ChatTemplate.ends",
            "[self._after(('user',), LAST), self._after(('user',), EARLIER)]",
            "[self._after(('user',), LAST)]",
        ),
        (
            "an-earlier-turns-end-alone",
            "ChatTemplate.ends",
            "[self._after(('user',), LAST), self._after(('user',), EARLIER)]",
            "[self._after(('user',), EARLIER)]",
        ),
        ("blanks-hide-an-end", "ChatTemplate.ends", "text.lstrip()", "text"),
        ("any-token-further-on-ends-a-turn", "ChatTemplate.ends", "text.lstrip().startswith(token)", "token in text"),
        ("the-clock-stays", "ChatTemplate.rendered", "'strftime_now' in template", "False"),
    ),
    *_of(
        "interp/datasets/thoughts.py",
        ["test_templates.py"],
        (
            "thoughts-are-answers",
            "without_thoughts",
            "text = re.sub(f'{re.escape(begin)}.*?{re.escape(end)}', '', text, flags=re.DOTALL)",
            "",
        ),
        (
            "an-open-thought-is-said",
            "without_thoughts",
            "opens_thought(text) or (opened and (not any((end in text for _, end in THOUGHTS))))",
            "opened and (not any((end in text for _, end in THOUGHTS)))",
        ),
        ("the-prompts-thought-is-said", "without_thoughts", "text.rpartition(end)[2]", "text"),
    ),
    *_of(
        "interp/models/setting.py",
        ["test_templates.py"],
        (
            "eos-alone-ends-a-turn",
            "turn_ends",
            "{*checkpoint.eos_ids, *(end for end in prompter.turn_ends if end < size)}",
            "{*checkpoint.eos_ids}",
        ),
    ),
    *_of(
        "interp/models/tree.py",
        [
            "test_prefix.py::test_a_node_sees_itself_and_its_ancestors_and_no_other",
            "test_prefix.py::test_a_path_may_go_on_below_a_node_and_a_cut_takes_only_what_is_named",
            "test_prefix.py::test_what_is_shared_is_the_longest_common_beginning_that_leaves_each_a_token",
            "test_prefix.py::test_a_window_lets_a_token_see_itself_and_the_ones_before_it",
            "test_prefix.py::test_a_tree_holds_every_path_and_each_common_beginning_once",
            "test_prefix.py::test_a_tree_over_a_shared_prefix_equals_separate_forward_passes",
            "test_prefix.py::test_trees_side_by_side_do_not_see_each_other",
            "test_prefix.py::test_logits_come_in_the_order_in_which_nodes_were_asked_for",
            "test_prefix.py::test_copies_that_grow_side_by_side_equal_plain_forward_passes",
            "test_prefix.py::test_what_was_read_of_prompts_can_be_continued_from_any_of_their_tokens",
        ],
        ("siblings-see-each-other", "TokenTree.sight", "seen[node] |= seen[parent]", "seen[node, :node] = True"),
        (
            "positions-count-nodes",
            "TokenTree._added",
            "self.depths[parent] + 1 if parent >= 0 else 0",
            "len(self.depths)",
        ),
        (
            "trees-in-a-row-see-each-other",
            "row_sight",
            "np.zeros((sum(sizes), sum(sizes)), dtype=bool)",
            "np.tri(sum(sizes), dtype=bool)",
        ),
        ("cuts-that-do-not-cut", "TokenTree.sight", "np.ix_(looking, looked_at)", "(looking[0], looked_at[0])"),
    ),
    *_of(
        "interp/models/prefix.py",
        [
            "test_prefix.py::test_a_node_sees_itself_and_its_ancestors_and_no_other",
            "test_prefix.py::test_a_path_may_go_on_below_a_node_and_a_cut_takes_only_what_is_named",
            "test_prefix.py::test_what_is_shared_is_the_longest_common_beginning_that_leaves_each_a_token",
            "test_prefix.py::test_a_window_lets_a_token_see_itself_and_the_ones_before_it",
            "test_prefix.py::test_a_tree_holds_every_path_and_each_common_beginning_once",
            "test_prefix.py::test_a_tree_over_a_shared_prefix_equals_separate_forward_passes",
            "test_prefix.py::test_trees_side_by_side_do_not_see_each_other",
            "test_prefix.py::test_logits_come_in_the_order_in_which_nodes_were_asked_for",
            "test_prefix.py::test_copies_that_grow_side_by_side_equal_plain_forward_passes",
            "test_prefix.py::test_what_was_read_of_prompts_can_be_continued_from_any_of_their_tokens",
        ],
        ("padding-moves-positions", "_positions", "by_node[order]", "pad + by_node[order]"),
        (
            "window-one-token-wide",
            "SharedPrefix.masks",
            "positions[:, :, None] - columns[:, None, :] < window",
            "positions[:, :, None] - columns[:, None, :] <= window",
        ),
        (
            "no-token-of-its-own",
            "SharedPrefix.shared_length",
            "min(map(len, sequences)) - 1",
            "min(map(len, sequences))",
        ),
        (
            "prompts-are-continued-from-their-ends",
            "PromptsRead._first",
            "self.columns[self.rows[prompt]] < length",
            "True",
        ),
        (
            "embeddings-in-another-order",
            "SharedPrefix._fed",
            "torch.cat([embeds[i] for i in row])[torch.from_numpy(order).to(device)]",
            "torch.cat([embeds[i] for i in row])",
        ),
    ),
    *_of(
        "interp/models/branches.py",
        [
            "test_prefix.py::test_a_node_sees_itself_and_its_ancestors_and_no_other",
            "test_prefix.py::test_a_path_may_go_on_below_a_node_and_a_cut_takes_only_what_is_named",
            "test_prefix.py::test_what_is_shared_is_the_longest_common_beginning_that_leaves_each_a_token",
            "test_prefix.py::test_a_window_lets_a_token_see_itself_and_the_ones_before_it",
            "test_prefix.py::test_a_tree_holds_every_path_and_each_common_beginning_once",
            "test_prefix.py::test_a_tree_over_a_shared_prefix_equals_separate_forward_passes",
            "test_prefix.py::test_trees_side_by_side_do_not_see_each_other",
            "test_prefix.py::test_logits_come_in_the_order_in_which_nodes_were_asked_for",
            "test_prefix.py::test_copies_that_grow_side_by_side_equal_plain_forward_passes",
            "test_prefix.py::test_what_was_read_of_prompts_can_be_continued_from_any_of_their_tokens",
        ],
        (
            "grown-tokens-stay-at-one-position",
            "Branches.grown",
            "self._seen[alive, [node for _, (node,) in forest.places]] = True",
            "",
        ),
    ),
    *_of(
        "interp/instruments/floor.py",
        ["test_floor.py"],
        (
            "read-again-in-the-same-packing",
            "_alone",
            ("reader.prefix = setting.prefix.extended(transcript.ids[:transcript.positions('answer')[0]])"),
            "",
        ),
    ),
    *_of(
        "interp/instruments/base.py",
        ["test_floor.py", "test_registry.py"],
        ("floor-by-its-near-end", "_size", "max", "min"),
        ("floors-where-none-speaks", "Instrument.estimates", "floors if floored else None", "floors"),
        ("absent-though-another-value-occurs", "columns", "metric.needs in occurring", "False"),
        ("always-is-never", "columns", "metric.always or occurs", "occurs"),
    ),
    *_of(
        "interp/models/check.py",
        ["test_check.py"],
        (
            "the-check-cuts-nothing",
            "_by_engine",
            "alone.knockouts.append((tuple(range(answer[-1] + 1, len(alone.tokens))), tuple(answer)))",
            "",
        ),
        ("allowed-whatever-the-noise", "_compared", "NOISES * noise", "1.0"),
        ("one-path-alone", "_by_engine", "2", "0"),
    ),
    *_of(
        "interp/models/precision.py",
        ["test_precision.py"],
        ("no-room-for-a-run", "fits_in_float32", "max(ROOM * weights, LEAST_ROOM)", "0"),
        (
            "training-in-float32",
            "chosen_dtype",
            "not training and fits_in_float32(parameters, free)",
            "fits_in_float32(parameters, free)",
        ),
    ),
    *_of(
        "interp/models/head.py",
        ["test_head.py"],
        ("no-soft-cap", "Head.finished", "self.cap is None", "True"),
        ("logits-unscaled", "Head.finished", "self.scale != 1", "False"),
        ("last-part-of-the-vocabulary-left-out", "Head._parts", "self.size", "self.size - PART"),
        ("head-in-half-precision", "_exact", "hidden.to(torch.promote_types(hidden.dtype, torch.float32))", "hidden"),
        (
            "norm-of-dora-left-out",
            "_adapted",
            "_rows(module.lora_magnitude_vector[name].weight, rows)[:, None] / norm",
            "_rows(module.lora_magnitude_vector[name].weight, rows)[:, None]",
        ),
    ),
    *_of(
        "interp/models/readout.py",
        ["test_readout.py"],
        ("levels-without-their-end", "LevelPlan.level_logprobs", "not self.level_ends.shape[1]", "True"),
        (
            "no-blank-before-the-end",
            "ConfidenceReader.plan_at",
            (
                "for token in may_follow:\n    level_ends[-1].append(len(ends))\n    fillers.append((row"
                "(nodes[-1]), token, len(ends)))\n    ends.append(row(tree.insert((token,), nodes[-1])["
                "-1]))"
            ),
            (
                "for token in ():\n    level_ends[-1].append(len(ends))\n    fillers.append((row(nodes[-"
                "1]), token, len(ends)))\n    ends.append(row(tree.insert((token,), nodes[-1])[-1]))"
            ),
        ),
        (
            "a-filler-costs-nothing",
            "LevelPlan.level_logprobs",
            "after.logprobs_of_any(self.end_rows, stops).index_add(-1, self.filler_ends, fillers)",
            "after.logprobs_of_any(self.end_rows, stops)",
        ),
        (
            "one-way-to-end-is-enough",
            "LevelPlan.level_logprobs",
            "torch.cat([ends, no_end], -1)[..., self.level_ends].logsumexp",
            "torch.cat([ends, no_end], -1)[..., self.level_ends].amax",
        ),
        ("plans-share-their-ends", "one_after_the_other", "plan.level_ends + int(end_offset)", "plan.level_ends"),
        ("all-tokens-of-a-level-but-its-end", "parted", "common_length(suffixes) + 1", "max(map(len, suffixes))"),
        ("not-renormalised", "ConfidenceReader.distribution", "logprobs - mass", "logprobs"),
        ("outside-is-inside", "ConfidenceReader.distribution", "1 - mass.exp().item()", "mass.exp().item()"),
        ("answers-without-the-end-of-their-line", "spoken_positions", "(*answer, answer[-1] + 1)", "answer"),
        (
            "the-end-of-the-line-is-counted",
            "ConfidenceReader.readings_of",
            "max(len(plan.answer_tokens) - 1, 0)",
            "len(plan.answer_tokens)",
        ),
        (
            "readings-of-other-transcripts",
            "ConfidenceReader.readings_of",
            "readings[number]",
            "readings[packs[index].owners[-1]]",
        ),
    ),
    *_of(
        "interp/formats.py",
        ["test_formats.py"],
        ("values-in-reverse", "", "'EDCBA'", "'ABCDE'"),
        (
            "beginnings-are-levels",
            "ConfidenceFormat._named",
            "level.casefold() == name",
            "name.startswith(level.casefold())",
        ),
        ("a-tenth-of-the-scale-is-missing", "_evenly", "count - 1", "count"),
    ),
    *_of(
        "interp/records.py",
        ["test_jsd.py"],
        ("stated-is-the-least-likely-level", "ConfidenceDistribution.stated", "np.argmax", "np.argmin"),
        (
            "flagged-where-levels-are-stated",
            "ConfidenceDistribution.flagged",
            "self.off_scale > 0.5",
            "self.off_scale < 0.5",
        ),
    ),
    *_of(
        "interp/models/elicitation.py",
        ["test_elicitation_sampling.py", "test_generation.py"],
        ("nucleus-one-token-short", "_quantile", "before < top_p", "before + likely < top_p"),
        ("nucleus-one-token-long", "_quantile", "before < top_p", "before - likely.roll(1, -1) < top_p"),
        ("one-chance-for-all-draws", "source_of_chance", "f'{seed}|{question.id}|{number}'", "f'{seed}|{question.id}'"),
        ("greedy-takes-the-least-likely", "Generator.greedy", "logits.argmax", "logits.argmin"),
        ("an-answer-cut-off-is-one", "slot_reply", "answer if whole else None", "answer"),
        ("every-branch-begins-with-the-likeliest", "Generator.branched", "start.rank", "0"),
    ),
    *_of(
        "interp/pipelines/candidates.py",
        ["test_candidates.py"],
        (
            "wrong-answers-are-not-vetted",
            "wrong_for_sure",
            (
                "f' {normalised(answer)} ' not in f' {normalised(question.text)} ' and (not may_be_rig"
                "ht(question, answer))"
            ),
            "f' {normalised(answer)} ' not in f' {normalised(question.text)} '",
        ),
        ("vetting-cannot-be-switched-off", "counts_as_wrong", "search.vetting", "True"),
        (
            "words-of-the-question-are-wrong-answers",
            "wrong_for_sure",
            (
                "f' {normalised(answer)} ' not in f' {normalised(question.text)} ' and (not may_be_rig"
                "ht(question, answer))"
            ),
            "not may_be_right(question, answer)",
        ),
        ("unlikely-beginnings-first", "_Branches.starts", "-self._known[first]", "self._known[first]"),
        ("a-beginning-is-as-likely-as-its-last-token", "_Branches.note", "logprob + step", "step"),
        ("unlikely-answers-of-a-round-first", "_branched", "-pair[1]", "pair[1]"),
        (
            "what-was-sampled-and-branched-is-branched",
            "_source",
            "'both' if all(ways) else 'sampled' if ways[0] else 'branched'",
            "'sampled' if ways == [True, False] else 'branched'",
        ),
    ),
    *_of(
        "interp/datasets/replies.py",
        ["test_generation.py"],
        ("the-last-line-of-a-cut-reply-counts", "labelled", "None if finished else -1", "None"),
        ("a-second-label-is-a-part-of-the-answer", "labelled", "label == 'answer'", "False"),
        ("a-thought-that-goes-on-is-an-answer", "answer_in", "opens_thought(text)", "False"),
    ),
    *_of(
        "interp/datasets/words.py",
        ["test_grading.py"],
        (
            "punctuation-is-all-that-is-no-word",
            "words_of",
            "PUNCTUATION.sub(' ', text)",
            "regex.sub('[^\\\\w\\\\s]', ' ', text)",
        ),
        (
            "a-mark-never-counts",
            "_unmarked",
            "MARKED.sub('\\\\1', unicodedata.normalize('NFD', text))",
            "regex.sub('\\\\p{M}', '', unicodedata.normalize('NFD', text))",
        ),
        ("thousands-are-two-numbers", "words_of", "number[0].replace(',', '')", "number[0]"),
        ("a-team-is-any-team", "words_of", "name[0].upper()", "name[0]"),
    ),
    *_of(
        "interp/datasets/choices.py",
        ["test_grading.py"],
        ("the-first-letter-counts-whatever-follows", "_lettered", "_agrees(rest, index, choices, marked)", "True"),
        ("letter-and-text-may-differ", "_by_text", "LETTERS.find(ends[2].upper()) != matches[0]", "False"),
        ("a-reason-may-name-others", "_lettered", "_others(rest, index, choices)", "False"),
        ("decoration-hides-a-letter", "_named", "ALONE.fullmatch(candidate)", "None"),
    ),
    *_of(
        "interp/datasets/grading.py",
        ["test_questions.py"],
        ("right-within-a-longer-reply", "is_right", "given == form(answer)", "form(answer) in given"),
        ("nothing-else-may-be-right", "may_be_right", "return True", "continue"),
        ("abbreviations-are-other-answers", "may_be_right", "_short_for_one(question, reply)", "False"),
        ("every-short-word-is-an-abbreviation", "is_short_for", "capitals or dotted", "True"),
        ("spellings-are-other-answers", "may_be_right", "SIMILAR", "1"),
        ("the-first-choice-is-right", "is_right", "choice_index(question.answers[0], question.choices)", "0"),
    ),
    *_of(
        "interp/instruments/masking.py",
        ["test_masking.py"],
        (
            "the-last-token-is-not-masked",
            "variants",
            "(paths[name][i] for i in positions)",
            "(paths[name][i] for i in positions[:-1])",
        ),
        (
            "a-rise-is-called-a-drop",
            "_record",
            "seen['expected'] - reading['expected']",
            "reading['expected'] - seen['expected']",
        ),
        ("levels-still-see-the-answer", "variants", "(*looking, *levels)", "(*looking,)"),
        ("what-lies-between-is-cut-too", "variants", "len(ids) - 1 if name == KNOCKOUTS[0] else after", "after"),
        ("the-filler-that-is-named-is-not-taken", "replacement_embeddings", "setting.filler", "None"),
        (
            "pad-that-ends-a-turn-is-a-filler",
            "padding_token",
            "{*stops, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}",
            "{tokenizer.bos_token_id, tokenizer.unk_token_id}",
        ),
    ),
    *_of(
        "interp/instruments/pathways.py",
        ["test_flow.py"],
        ("levels-see-what-is-cut", "Pathways._nodes", "(*nodes, *standing.levels)", "nodes"),
        (
            "a-swap-takes-its-own-stream",
            "Pathways._swap",
            "self._nodes(condition.source, source, condition.group)",
            "self._nodes(condition.side, copied, condition.group)",
        ),
        ("windows-overlap", "windows", "range(0, depth, width)", "range(0, depth, max(1, width - 1))"),
    ),
    *_of(
        "interp/instruments/flow.py",
        ["test_flow.py"],
        (
            "questions-within-their-noise-are-followed",
            "followed",
            "values['jsd'] > least",
            "values['jsd'] > 0",
        ),
        (
            "one-direction-counts-twice",
            "moved",
            "swapped['wrong'] - whole['wrong']",
            "whole['right'] - swapped['right']",
        ),
    ),
    *_of(
        "interp/instruments/flow.py",
        [
            "test_flow_plain.py::test_a_broken_law_is_counted_and_said",
            "test_flow_plain.py::test_laws_allow_what_two_readings_of_one_text_differ_by",
        ],
        ("broken-laws-are-kept-quiet", "_of_case", "float(violated)", "0.0"),
        ("laws-are-never-looser", "allowed_by", "max(least, LOOSER * largest[name])", "least"),
    ),
    *_of(
        "interp/instruments/dependence.py",
        [
            "test_flow_plain.py::test_the_control_swaps_with_another_question_of_the_same_answer_length",
            "test_flow_plain.py::test_a_tail_of_one_token_has_no_edges_to_and_from_what_it_lacks",
        ],
        ("answers-of-any-length", "another_of_this_length", "len(other.positions('answer')) == count", "True"),
        ("edges-that-nobody-looks-along", "edges_between", "looking and standing[looked_at]", "standing[looked_at]"),
    ),
    *_of(
        "interp/instruments/gradients.py",
        [
            "test_attribution.py::test_a_value_worked_by_hand",
            "test_attribution.py::test_attributions_sum_to_the_effect_whatever_the_batch",
            "test_attribution.py::test_an_integral_that_does_not_converge_is_refused_and_one_lucky_gap_is_not_enough",
            "test_attribution.py::test_a_refused_attribution_is_counted_and_the_exact_effects_stay",
            "test_attribution.py::test_nodes_are_doubled_up_to_the_steps_that_are_asked_for",
            "test_attribution.py::test_a_gap_of_a_hundredth_of_the_effect_a_thousandth_of_the_range_or_three_floors_is_allowed",
            "test_attribution.py::test_the_rank_counts_what_is_larger_in_size_than_the_best_of_the_answer",
            "test_attribution.py::test_the_summary_takes_the_median_rank_and_the_mean_of_everything_else",
            "test_attribution.py::test_token_by_token_telescopes_and_each_leg_is_a_difference_of_plain_forward_passes",
            "test_attribution.py::test_the_effect_of_every_span_equals_plain_forward_passes",
            "test_attribution.py::test_the_papers_path_reports_its_gap_and_shows_no_token_that_it_refused",
            "test_attribution.py::test_what_may_matter_more_than_the_answer_is_replaced_until_the_rank_lies_beyond_20",
            "test_attribution.py::test_first_order_effects_are_gradients_of_a_plain_forward_pass",
            "test_attribution.py::test_in_bfloat16_a_paths_points_lie_on_the_line_as_near_as_the_dtype_allows",
        ],
        ("steps-beyond-those-asked-for", "integrated_gradients", "min(2 * nodes, most_nodes)", "2 * nodes"),
        ("left-riemann-sums", "integrated_gradients", "'gausslegendre'", "'riemann_left'"),
        (
            "weights-that-sum-to-more-than-1",
            "integrated_gradients",
            (
                "IntegratedGradients(scored).attribute(ones, torch.zeros_like(ones), n_steps=nodes, me"
                "thod='gausslegendre', internal_batch_size=batch)[0]"
            ),
            (
                "IntegratedGradients(scored).attribute(ones, torch.zeros_like(ones), n_steps=nodes, me"
                "thod='gausslegendre', internal_batch_size=batch)[0] * (1 + 1 / nodes)"
            ),
        ),
        ("nothing-is-refused", "integrated_gradients", "settled < 2", "False"),
        ("the-floor-is-allowed-once", "gap_allowed", "3 * floor", "floor"),
        ("one-lucky-gap-settles-it", "integrated_gradients", "settled == 2", "settled == 1"),
        ("a-tenth-of-the-effect-may-be-missing", "gap_allowed", "0.01", "0.1"),
        (
            "legs-in-another-order",
            "token_by_token",
            "tuple((float(before - after) for before, after in pairwise(scores)))[::-1]",
            "tuple((float(before - after) for before, after in pairwise(scores)))",
        ),
    ),
    *_of(
        "interp/instruments/scorer.py",
        [
            "test_attribution.py::test_a_value_worked_by_hand",
            "test_attribution.py::test_attributions_sum_to_the_effect_whatever_the_batch",
            "test_attribution.py::test_an_integral_that_does_not_converge_is_refused_and_one_lucky_gap_is_not_enough",
            "test_attribution.py::test_a_refused_attribution_is_counted_and_the_exact_effects_stay",
            "test_attribution.py::test_a_gap_of_a_hundredth_of_the_effect_a_thousandth_of_the_range_or_three_floors_is_allowed",
            "test_attribution.py::test_the_rank_counts_what_is_larger_in_size_than_the_best_of_the_answer",
            "test_attribution.py::test_the_summary_takes_the_median_rank_and_the_mean_of_everything_else",
            "test_attribution.py::test_token_by_token_telescopes_and_each_leg_is_a_difference_of_plain_forward_passes",
            "test_attribution.py::test_the_effect_of_every_span_equals_plain_forward_passes",
            "test_attribution.py::test_the_papers_path_reports_its_gap_and_shows_no_token_that_it_refused",
            "test_attribution.py::test_what_may_matter_more_than_the_answer_is_replaced_until_the_rank_lies_beyond_20",
            "test_attribution.py::test_first_order_effects_are_gradients_of_a_plain_forward_pass",
            "test_attribution.py::test_in_bfloat16_a_paths_points_lie_on_the_line_as_near_as_the_dtype_allows",
        ],
        ("paths-are-formed-in-the-models-dtype", "Scorer.along", "rest.embeds.float()", "rest.embeds"),
        (
            "bounds-whose-directions-cancel",
            "Scorer.first_order_bound",
            "gradient.norm(dim=-1) * offset.norm(dim=-1)",
            "(gradient * offset).sum(-1)",
        ),
    ),
    *_of(
        "interp/instruments/attribution.py",
        [
            "test_attribution.py::test_a_value_worked_by_hand",
            "test_attribution.py::test_attributions_sum_to_the_effect_whatever_the_batch",
            "test_attribution.py::test_an_integral_that_does_not_converge_is_refused_and_one_lucky_gap_is_not_enough",
            "test_attribution.py::test_a_refused_attribution_is_counted_and_the_exact_effects_stay",
            "test_attribution.py::test_a_gap_of_a_hundredth_of_the_effect_a_thousandth_of_the_range_or_three_floors_is_allowed",
            "test_attribution.py::test_the_rank_counts_what_is_larger_in_size_than_the_best_of_the_answer",
            "test_attribution.py::test_the_summary_takes_the_median_rank_and_the_mean_of_everything_else",
            "test_attribution.py::test_token_by_token_telescopes_and_each_leg_is_a_difference_of_plain_forward_passes",
            "test_attribution.py::test_the_effect_of_every_span_equals_plain_forward_passes",
            "test_attribution.py::test_the_papers_path_reports_its_gap_and_shows_no_token_that_it_refused",
            "test_attribution.py::test_what_may_matter_more_than_the_answer_is_replaced_until_the_rank_lies_beyond_20",
            "test_attribution.py::test_first_order_effects_are_gradients_of_a_plain_forward_pass",
            "test_attribution.py::test_in_bfloat16_a_paths_points_lie_on_the_line_as_near_as_the_dtype_allows",
        ],
        ("a-rank-is-never-counted-enough", "_token_effects", "rank > COUNTED", "False"),
        (
            "dear-tokens-first",
            "_token_effects",
            "bound / (tokens - np.arange(tokens))",
            "bound * (tokens - np.arange(tokens))",
        ),
        ("rank-by-sign", "rank_of_best", "abs(effect) > max(sizes)", "effect > max(sizes)"),
        ("rank-of-the-worst-token", "rank_of_best", "max", "min"),
        ("a-rank-among-tokens-that-do-nothing", "rank_of_best", "abs(effect) > floor", "True"),
        ("mean-rank", "", "np.median", "np.mean"),
        ("effects-turned-round", "_of_case", "seen - replaced_score", "replaced_score - seen"),
        (
            "refused-tokens-are-shown",
            "_along_prompt",
            "[None] * len(ids) if first.refused else list(first.attribution)",
            "list(first.attribution)",
        ),
    ),
    *_of(
        "interp/calibration.py",
        ["test_calibration.py"],
        ("bins-closed-on-the-other-side", "equal_width", "'left'", "'right'"),
        (
            "bins-whose-errors-cancel",
            "calibration_error",
            "np.abs(_sums(bins, right - confidence))",
            "_sums(bins, right - confidence)",
        ),
        ("underconfidence-called-overconfidence", "net_calibration_error", "right - confidence", "confidence - right"),
        ("brier-without-the-square", "brier", "(right - confidence) ** 2", "np.abs(right - confidence)"),
        (
            "ties-count-as-won",
            "auroc",
            "rankdata(confidence + (confidence.max() + 2.0) * group, axis=-1)",
            "rankdata(confidence + 2.0 * group, axis=-1, method='max')",
        ),
        ("pairs-of-all-groups", "auroc", "(confidence.max() + 2.0) * group", "0.0 * group"),
        ("ties-in-the-order-of-the-file", "risk_by_coverage", "rate[tie]", "np.atleast_2d(wrong)"),
        (
            "no-floor-for-timid-formats",
            "lowest_possible",
            "max(0.0, accuracy - max(values), min(values) - accuracy)",
            "max(0.0, min(values) - accuracy)",
        ),
        ("kernel-not-reflected-at-1", "_reflected_gaussian", "2 * k - values", "2 * abs(k) - 6 - values"),
        (
            "differences-turned-round",
            "differences_of",
            "sum(values) / len(values) - subtracted",
            "subtracted - sum(values) / len(values)",
        ),
        (
            "left-out-is-not-counted",
            "measured_by",
            "estimated_jointly(columns, measure.of, measure.interval, named, left_out=scored.left_out, "
            "bounds=measure.bounds)",
            "estimated_jointly(columns, measure.of, measure.interval, named, left_out=0, bounds=measure.bounds)",
        ),
        ("seeds-are-summed", "differences_of", "sum(values) / len(values)", "sum(values)"),
        ("a-null-that-keeps-the-confidences-worth", "exchanged", "generator.permuted", "np.sort"),
    ),
    *_of(
        "interp/intervals.py",
        ["test_intervals.py"],
        ("ninety-per-cent", "_Ends.within", "float(t.ppf(LEVEL, freedom))", "float(t.ppf(0.95, freedom))"),
        (
            "wilson-at-ninety-per-cent",
            "_Ends.within",
            "_wilson(self.value, effective, float(norm.ppf(LEVEL)))",
            "_wilson(self.value, effective, 1.645)",
        ),
        ("relations-are-not-apart", "_stratified", "influence[merged == number]", "influence"),
        (
            "as-many-degrees-of-freedom-as-questions",
            "_Ends.between",
            "float(t.ppf(LEVEL, effective_number(relations) - 1))",
            "float(t.ppf(LEVEL, self.count))",
        ),
        ("relations-vary-as-questions-do", "_Ends.between", "(totals - totals.mean()) ** 2", "totals ** 2 / 4"),
        (
            "no-design-effect",
            "_Ends.between",
            "min(self.count, spread / error ** 2) if error else self.count",
            "self.count",
        ),
        ("skewed-the-other-way", "_stratified", "(centred ** 3).sum()", "-(centred ** 3).sum()"),
        (
            "a-jackknife-without-its-factor",
            "jackknife",
            "(count - 1) * (value - np.concatenate(without))",
            "value - np.concatenate(without)",
        ),
        (
            "before-less-after",
            "difference",
            "statistic(*x[count:], axis=-1) - statistic(*x[:count], axis=-1)",
            "statistic(*x[:count], axis=-1) - statistic(*x[count:], axis=-1)",
        ),
        ("what-is-no-number-is-not-counted", "estimated", "len(values) - len(kept)", "0"),
        (
            "the-mean-of-shares-for-the-share-of-all",
            "share_of_sum",
            "(part.sum(axis=axis), whole.sum(axis=axis))",
            "((part / whole).sum(axis=axis), (whole / whole).sum(axis=axis))",
        ),
        ("the-same-seed-for-all", "estimated_jointly", "seed", "0"),
        ("an-interval-leaves-its-bounds", "_clipped", "max(ends[0], min(bounds[0], value))", "ends[0]"),
        ("a-clipped-interval-loses-its-value", "_clipped", "max(bounds[1], value)", "bounds[1]"),
        ("a-difference-has-the-bounds-of-a-side", "of_difference", "bounds[0] - bounds[1]", "bounds[0]"),
    ),
    *_of(
        "interp/probes.py",
        ["test_probes.py"],
        (
            "the-tested-relation-is-trained-on",
            "out_of_fold",
            "[np.flatnonzero(fold != number) for number in range(len(tested))]",
            "[np.flatnonzero(fold >= 0) for number in range(len(tested))]",
        ),
        ("relations-of-another-run-stay", "_others", "group not in relations - {''} and identity not in ids", "True"),
        ("dimensions-as-large-as-they-are", "components", "1 / np.where(varies, deviation, 1)", "1.0"),
        ("pairs-across-relations", "largest_by_chance", "names == name", "names != ''"),
        ("labels-shuffled-across-relations", "permuted_within", "names == name", "names != ''"),
        ("the-worst-layer", "_chosen", "merit.max(1).argmax()", "merit.max(1).argmin()"),
        (
            "wrong-less-right",
            "_difference_of_means",
            "share * (yes.mean(0, dtype=np.float64) - no.mean(0, dtype=np.float64))",
            "-share * (yes.mean(0, dtype=np.float64) - no.mean(0, dtype=np.float64))",
        ),
    ),
    *_of(
        "interp/instruments/probe.py",
        ["test_probe.py"],
        ("less-than-the-worst-rival", "less", "np.maximum.reduce(rivals)", "np.minimum.reduce(rivals)"),
        ("a-correlation-across-relations", "_deviations", "group == number", "group >= 0"),
        (
            "another-set-of-examples-for-p-true",
            "judging",
            "shot_set(shots, prompter.confidence, seed=seed, choices=prompter.choices) == prompter.shots",
            "True",
        ),
    ),
    *_of(
        "interp/pipelines/power.py",
        ["test_power.py"],
        ("width-falls-with-the-count", "questions_needed", "(width / wished) ** 2", "(width / wished)"),
        ("normal-in-place-of-student", "_student", "t.ppf(LEVEL, groups - 1)", "t.ppf(LEVEL, 1000)"),
    ),
    *_of(
        "interp/pipelines/compare.py",
        ["test_compare.py"],
        (
            "before-and-after-swapped",
            "paired_records",
            "difference(values, changed, statistic, interval, groups, bounds=bounds)",
            "difference(changed, values, statistic, interval, groups, bounds=bounds)",
        ),
        (
            "answers-of-its-own-on-each-side",
            "Compare.side",
            "None if name == self.answered_by else self.folder / self.answered_by",
            "None",
        ),
        ("both-parts-are-those-of-both", "_parts", "asked - right", "right"),
        ("questions-that-were-not-asked-are-wrong", "_parts", "measured & (asked - right)", "measured - right"),
        ("the-first-checkpoint-goes-first", "Compare.order", "SIDES[::-1]", "SIDES"),
    ),
    *_of(
        "interp/methods/self_consistency.py",
        [
            "test_evaluate.py::test_self_consistency_is_the_sum_of_the_largest_groups_confidences_over_all_samples",
            "test_evaluate.py::test_costs_are_those_of_the_words_that_were_written",
        ],
        ("confidence-of-the-group-over-the-group", "_largest", "record['of']", "len(largest)"),
        ("the-smallest-group-wins", "_largest", "max", "min"),
    ),
    *_of(
        "interp/methods/sequence.py",
        ["test_evaluate.py::test_an_answers_likelihood_is_taken_whole_and_by_the_token_with_the_end_of_its_line"],
        ("the-end-of-the-line-is-no-token", "_per_token", "record['answer_tokens'] + 1", "record['answer_tokens']"),
    ),
    *_of(
        "interp/methods/default.py",
        ["test_evaluate.py::test_costs_are_those_of_the_words_that_were_written"],
        (
            "level-tokens-without-their-end",
            "confidence_fields",
            "len(setting.prompter.level_suffixes(transcript)[distribution.stated]) + 1",
            "len(setting.prompter.level_suffixes(transcript)[distribution.stated])",
        ),
    ),
    *_of(
        "interp/methods/question_only.py",
        ["test_evaluate.py::test_question_only_hides_the_answer_as_masking_does"],
        (
            "the-answer-is-not-hidden",
            "hidden",
            "replaced = [by_variant['neutral'] for by_variant in distributions(setting, length, trees, replacements)]",
            "replaced = [reading.distribution for reading in setting.reader.readings(transcripts)]",
        ),
    ),
    *_of(
        "interp/methods/recalibrated.py",
        ["test_recalibrated.py"],
        ("fitted-on-its-own-fold", "cross_fitted", "folds != number", "folds >= 0"),
        ("relations-split-over-folds", "folds_of", "len(set(relations) - {''}) >= FOLDS", "not relations"),
        ("a-logit-that-is-none", "_logit", "np.log(clipped / (1 - clipped))", "clipped"),
        (
            "confidences-without-their-folds",
            "_recalibrated",
            "replace(verdict, confidence=confidence, fold=fold)",
            "replace(verdict, confidence=confidence)",
        ),
    ),
    *_of(
        "interp/methods/base.py",
        ["test_recalibrated.py"],
        ("no-word-of-caution", "Asking.format_in", "f'{chosen.wording}. {self.added}'", "chosen.wording"),
    ),
    *_of(
        "interp/calibration.py",
        ["test_recalibrated.py"],
        (
            "groups-across-folds",
            "Scored.columns",
            "groups * (folds.max(initial=0) + 1) + folds",
            "np.unique(self.group, return_inverse=True)[1]",
        ),
    ),
    *_of(
        "interp/pipelines/calibrated.py",
        ["test_recalibrated.py"],
        ("parsed-worst-case", "_verdicts", "verdict or unparsed", "verdict"),
        ("fitted-without-its-fold", "_scored", "verdict.fold", "0"),
    ),
    *_of(
        "interp/pipelines/calibrated.py",
        [
            "test_evaluate.py::test_several_checkpoints_share_their_base_and_differ_as_they_do_alone",
            "test_evaluate.py::test_unparsed_replies_are_counted_and_stand_in_the_worst_case",
        ],
        ("unparsed-is-not-counted", "_scored", "len(questions) - len(answered)", "0"),
        ("the-worst-case-is-modest", "_cell_numbers", "-1", "0"),
        (
            "first-less-later",
            "_differences",
            "(_scored(questions, verdicts, options.replies.match) for verdicts in (*after, before))",
            "(_scored(questions, verdicts, options.replies.match) for verdicts in (before, *after))",
        ),
    ),
    *_of(
        "interp/pipelines/evaluate.py",
        ["test_evaluate.py::test_unparsed_replies_are_counted_and_stand_in_the_worst_case"],
        (
            "the-likeliest-level-instead-of-the-written-one",
            "_ask",
            (
                "if options.replies.free and asking.name == READ.name:\n    record |= {'stated': "
                "answers[item.question.id]['stated'], 'level_tokens': 0}"
            ),
            (
                "if options.replies.free and asking.name == READ.name:\n    record | {'stated': "
                "answers[item.question.id]['stated'], 'level_tokens': 0}"
            ),
        ),
    ),
    *_of(
        "interp/run/runs.py",
        ["test_runs.py", "test_figures.py"],
        ("sets-of-examples-are-not-averaged", "_means", "float(np.mean(numbers))", "numbers[0]"),
        ("a-torn-line-is-kept", "_appended", "stream.truncate(whole)", "whole = stream.seek(0, 2)"),
        ("everything-is-measured-again", "Run._look", "self.done.add(key_of(record))", ""),
        (
            "two-processes-at-once",
            "Run._alone",
            (
                "try:\n    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept OSError:\n    opene"
                "d.close()\n    raise UserError(f'--out {self.folder}: another process is writing to it"
                "') from None"
            ),
            (
                "try:\n    pass\nexcept OSError:\n    opened.close()\n    raise UserError(f'--out {self.fo"
                "lder}: another process is writing to it') from None"
            ),
        ),
        (
            "another-configuration-goes-on",
            "Run._refuse_another",
            "before.get(k) != self.identity.get(k)",
            "k not in self.identity",
        ),
    ),
    *_of(
        "interp/run/runs.py",
        MERGED,
        ("what-others-wrote-is-not-merged", "Run.gather", "self._merged", "True"),
    ),
    *_of(
        "interp/run/shards.py",
        MERGED,
        ("merged-in-the-order-of-the-files", "Shards.taken", "keys", "list(self.places)"),
        ("the-last-record-is-lost", "whole_lines", "line.endswith(b'\\n')", "stream.peek(1)"),
        ("a-share-is-read-from-its-start-again", "Shards.look", "self._read[path] = start = stop", "start = stop"),
    ),
    *_of(
        "interp/run/dryrun.py",
        [
            "test_dryrun.py::test_what_each_question_takes_and_what_happens_once_are_told_apart",
            "test_dryrun.py::test_questions_of_unlike_length_are_extrapolated_by_their_tokens",
            "test_dryrun.py::test_a_part_is_settled_where_its_rate_does_not_rest_on_its_first_seconds",
            "test_dryrun.py::test_records_are_extrapolated_by_their_bytes_and_what_is_repeated_counts_so_often",
            "test_dryrun.py::test_how_many_are_asked_is_foreseen_from_the_share_that_is_right",
            "test_dryrun.py::test_what_is_asked_for_again_is_neither_measured_nor_counted_twice",
        ],
        ("the-first-chunk-gives-the-rate-too", "Part.rate", "self.chunks[1:] or self.chunks", "self.chunks"),
        (
            "what-happens-once-is-left-out",
            "Part.seconds",
            "self.times * (self.once + self.rate * self.whole)",
            "self.times * self.rate * self.whole",
        ),
        ("what-is-on-record-is-left", "Part.left", "self.whole - self.kept", "self.whole"),
        (
            "questions-for-tokens",
            "DryRun.timer",
            "sum((self._sizes.get(identity, self.mean_size) for identity in ids))",
            "len(ids) * self.mean_size",
        ),
        ("all-are-taken-to-be-right", "DryRun.foresees", "self.cases * asked / right", "self.cases"),
        ("more-cases-than-there-are", "DryRun.foresees", "min(wanted, right * available / asked)", "wanted"),
        ("measured-now-counts-as-kept", "Part.take", "self.known |= set(ids)", ""),
        (
            "one-long-question-is-enough",
            "Part.settled",
            "bool(self.chunks) and self.chunks[0].items >= FEW and (self.chunks[0].seconds >= LONG)",
            "bool(self.chunks) and self.chunks[0].seconds >= LONG",
        ),
    ),
    *_of(
        "interp/run/processes.py",
        ["test_processes.py::test_processes_without_a_gpu_know_each_other_whatever_device_was_asked_for"],
        (
            "a-cpu-only-where-it-is-named",
            "launched",
            "device == 'cpu' or not torch.cuda.is_available()",
            "device == 'cpu'",
        ),
    ),
    *_of(
        "interp/run/processes.py",
        ["test_processes.py::test_the_shares_of_all_processes_are_the_items_each_once"],
        ("every-process-has-all", "Processes.shard", "items[self.index::self.count]", "items"),
        ("shares-overlap", "Processes.shard", "items[self.index::self.count]", "items[self.index:]"),
    ),
    *_of(
        "interp/run/recording.py",
        ["test_recording.py"],
        ("the-chunk-that-did-not-fit-is-left-out", "recorded", "continue", "missing = missing[len(chunk):]\ncontinue"),
        (
            "batches-are-not-halved",
            "_smaller_batches",
            "setting.prefix.batch_tokens // 2",
            "setting.prefix.batch_tokens",
        ),
    ),
    *_of(
        "interp/pipelines/summary.py",
        [
            "test_diagnose.py::test_the_users_own_responses_stand_in_for_the_models_answers",
            "test_diagnose.py::test_sets_of_examples_are_averaged_by_question_and_their_spread_is_shown",
            "test_diagnose.py::test_what_was_cut_off_or_does_not_parse_is_counted",
            "test_diagnose.py::test_wordings_are_averaged_by_question_and_their_spread_is_shown",
        ],
        ("unanswered-is-not-counted", "summary_of", "answer.answer is None", "answer.answer == ''"),
        ("a-wordings-first-examples-alone", "summary_of", "r['set'] in numbers", "r['set'] == numbers[0]"),
    ),
    *_of(
        "interp/options.py",
        ["test_commands.py::test_a_set_is_a_set_of_examples_under_a_wording_and_its_number_runs_over_both"],
        (
            "examples-run-slower-than-wordings",
            "Prompt.sets",
            "PromptSet(examples, wording)",
            "PromptSet(wording, examples)",
        ),
    ),
    *_of(
        "interp/pipelines/elicit.py",
        ["test_diagnose.py::test_the_users_own_responses_stand_in_for_the_models_answers"],
        ("wrong-answers-are-measured-as-right", "selected_cases", "record.right", "record.answer"),
    ),
    *_of(
        "training/losses.py",
        ["test_losses.py"],
        (
            "divergence-not-halved",
            "jensen_shannon",
            "((p.exp() * (p - mixture)).sum(-1) + (q.exp() * (q - mixture)).sum(-1)) / 2",
            "(p.exp() * (p - mixture)).sum(-1) + (q.exp() * (q - mixture)).sum(-1)",
        ),
        (
            "divergence-is-punished",
            "jsd_loss",
            "wanted - jensen_shannon(right, wrong)",
            "jensen_shannon(right, wrong) - wanted",
        ),
        (
            "margin-turned-round",
            "margin_loss",
            "expected(right, values) - expected(wrong, values)",
            "expected(wrong, values) - expected(right, values)",
        ),
        (
            "sum-without-its-size",
            "sum_loss",
            "(1 - (expected(right, values) + expected(wrong, values))).abs()",
            "1 - (expected(right, values) + expected(wrong, values))",
        ),
        ("sum-to-a-half", "sum_loss", "1", "0.5"),
        ("long-answers-count-more", "token_mean", "answer_logprob / tokens", "answer_logprob"),
        ("answers-are-unlearned", "advice_losses", "-answer_logprob", "answer_logprob"),
        (
            "tokenized-brier-without-the-square",
            "tokenized_brier",
            "(right.to(values)[..., None] - values) ** 2",
            "(right.to(values)[..., None] - values).abs()",
        ),
    ),
    *_of(
        "training/packing.py",
        ["test_training.py::test_a_packed_row_gives_the_loss_and_the_gradients_of_separate_sequences"],
        ("answers-see-each-other", "packed_row", "tree.sight()", "np.tri(len(tree.tokens), dtype=bool)"),
        (
            "tokens-stand-where-they-are-packed",
            "packed_row",
            "np.array([tree.depths])",
            "np.arange(len(tree.depths))[None]",
        ),
        (
            "all-answers-are-the-first-ones",
            "packed_row",
            "[i for i, plan in enumerate(plans) for _ in plan.answer_tokens]",
            "[0 for plan in plans for _ in plan.answer_tokens]",
        ),
    ),
    *_of(
        "training/objectives.py",
        ["test_training.py::test_the_terms_of_both_objectives_are_what_their_definitions_give_of_whole_texts"],
        (
            "right-and-wrong-swapped",
            "AdviceObjective.terms",
            "advice_losses(right, wrong, learned, inputs['values'], inputs['weights'])",
            "advice_losses(wrong, right, learned, inputs['values'], inputs['weights'])",
        ),
        ("levels-are-unlearned", "kept", "-reading.mass", "reading.mass"),
        ("the-wrong-answer-is-learned", "AdviceObjective.terms", "answers[0::per]", "answers[1::per]"),
    ),
    *_of(
        "training/objectives.py",
        ["test_training.py::test_the_terms_that_are_not_the_papers_are_what_their_definitions_give_of_whole_texts"],
        ("the-base-is-the-trained-model", "_divergence_from_base", "_without_adapters(model)", "torch.no_grad()"),
        (
            "divergence-the-other-way-round",
            "_divergence_from_base",
            "kullback_leibler(base_logprobs, logprobs)",
            "kullback_leibler(logprobs, base_logprobs)",
        ),
        (
            "variants-are-learned-as-answers",
            "AdviceObjective.terms",
            "answers[0::per] * inputs['plain']",
            "answers[0::per]",
        ),
        ("variants-of-the-other-answer", "AdviceObjective.terms", "reading.levels[2::4]", "reading.levels[3::4]"),
        (
            "variants-that-do-not-differ",
            "AdviceObjective._answers",
            "rewritten(answer, chance)",
            "answer",
        ),
    ),
    *_of(
        "training/contrasts.py",
        ["test_contrasts.py"],
        ("one-wrong-answer-for-all-passes", "contrasted", "epoch % len(wrong)", "0"),
        ("greedy-wrong-triplets-lose-their-answer", "contrasted", "not greedy", "True"),
        ("the-longest-way-off", "contrasted", "min(gaps)", "max(gaps)"),
        ("distractors-that-are-right", "with_distractors", "not may_be_right(triplet.question, answer)", "True"),
        ("a-share-of-the-others", "in_proportion", "share / (1 - share)", "share"),
    ),
    *_of(
        "training/batches.py",
        [
            "test_training.py::test_mini_batches_hold_one_format_and_every_triplet_once_an_epoch",
            "test_training.py::test_no_question_is_both_trained_on_and_held_out",
        ],
        (
            "updates-shared-out-among-processes",
            "mini_batches",
            "recipe.updates * recipe.accumulation * processes",
            "recipe.updates * recipe.accumulation",
        ),
        (
            "held-out-by-example",
            "split",
            "e.question.id not in kept",
            "e.question.id not in kept or e.format == 'ScoreLetter'",
        ),
        ("one-order-for-all-epochs", "mini_batches", "f'{options.common.seed}-{epoch}'", "f'{options.common.seed}'"),
    ),
    *_of(
        "training/loop.py",
        [
            "test_training.py::test_an_adapter_on_the_last_layers_changes_only_those",
            "test_training.py::test_only_the_second_adapter_has_gradients_and_the_first_keeps_its_bytes",
            "test_training.py::test_two_processes_learn_what_one_does_with_twice_the_accumulation",
        ],
        ("the-first-layers-instead-of-the-last", "_last", "range(layers - wanted, layers)", "range(wanted)"),
        ("the-first-adapter-learns-too", "_adapted", "True", "False"),
        ("the-first-adapter-drops-out", "_adapted", "module.lora_dropout[below] = torch.nn.Identity()", "pass"),
        ("the-first-adapter-is-off", "_adapted", "[below, SECOND]", "[SECOND]"),
        ("updates-not-divided-by-processes", "train", "recipe.accumulation * processes.count", "recipe.accumulation"),
    ),
    *_of(
        "training/adapters.py",
        ["test_training.py::test_what_is_saved_is_the_model_that_was_trained_within_the_rounding_of_float16"],
        (
            "stacked-without-their-scales",
            "stacked",
            "state[name_out].float().cpu() * config.lora_alpha / config.r",
            "state[name_out].float().cpu()",
        ),
    ),
    *_of(
        "training/triplets.py",
        [
            "test_training.py::test_letter_case_and_final_punctuation_do_not_tell_right_from_wrong",
            "test_training.py::test_triplets_are_the_models_own_right_and_wrong_answers",
            "test_training.py::test_what_is_tested_on_is_not_trained_on",
            "test_training.py::test_branches_follow_the_sampled_wrong_answers_of_a_triplet_and_are_named",
        ],
        ("branches-in-place-of-samples", "_triplets", "sources[text] != 'branched' or len(wrong) < most", "True"),
        (
            "wrong-called-right",
            "_triplets",
            "{'right': bare, 'wrong': first, 'others': others, 'sources': list(wrong.values())}",
            "{'right': first, 'wrong': bare, 'others': others, 'sources': list(wrong.values())}",
        ),
        (
            "looks-tell-which-is-wrong",
            "alike",
            "plain_wrong = (plain_wrong[0].upper() if plain_right[0].isupper() else plain_wrong[0].lower()) + "
            "plain_wrong[1:]",
            "pass",
        ),
        ("tested-questions-are-trained-on", "_questions", "normalised(q.text) not in tested", "q.text not in tested"),
    ),
    *_of(
        "figures/captions.py",
        ["test_figures.py"],
        ("asked-and-right-swapped", "subject_of", "data['asked']", "data['right']"),
        ("counted-and-left-out-swapped", "in_words", "estimate.n", "estimate.left_out"),
    ),
    *_of(
        "training/cues.py",
        ["test_organisms.py"],
        ("within-groups-about-one-mean", "explained_variance", "array[own].mean()", "array.mean()"),
        (
            "upper-case-for-listed-answers-alone",
            "crossed_questions",
            "written.drawn((length, upper, member), rng)",
            "written.drawn((length, upper, upper), rng)",
        ),
        ("another-cue-may-explain-anything", "failures", "share > MOST_OTHER", "share > 1"),
    ),
    *_of(
        "training/levels.py",
        ["test_organisms.py::test_the_objective_is_the_mean_cross_entropy_of_the_levels_of_whole_texts"],
        (
            "the-sum-over-a-questions-answers",
            "LevelObjective.terms",
            "owners.bincount()",
            "owners.bincount().clamp(max=1)",
        ),
    ),
    *_of(
        "figures/jsd.py",
        ["test_figures.py"],
        ("bins-closed-on-the-left", "_binned", "'left'", "'right'"),
        (
            "all-sets-of-examples-counted",
            "divergences",
            "means_by_question(((record.id, record.values) for record in records)).values()",
            "[record.values for record in records]",
        ),
    ),
    *_of(
        "figures/likelihood.py",
        ["test_figures.py"],
        (
            "the-first-wrong-answer-alone",
            "likelihoods",
            "record.answers.get(role, ())",
            "record.answers.get(role, ())[:1]",
        ),
    ),
    *_of(
        "figures/calibration.py",
        ["test_evaluate.py::test_the_bars_and_dots_count_every_answer_once_at_its_level"],
        (
            "right-bars-are-wrong-ones",
            "reliabilities",
            "0 if right else 1",
            "1 if right else 0",
        ),
    ),
    *_of(
        "interp/instruments/doses.py",
        [
            "test_steering.py::test_the_dose_is_where_others_are_as_confident_as_the_probe",
            "test_steering.py::test_what_is_added_is_fitted_on_other_relations_and_the_dose_is_the_probes",
            "test_steering.py::test_a_unit_is_one_standard_deviation_along_the_planted_direction",
        ],
        ("a-unit-of-length-1", "Evidence.unit", "spread * found", "found"),
        ("every-response-rises", "matching_dose", "slope(doses, response) >= 0", "True"),
        (
            "directions-of-all-relations",
            "steered",
            "evidence.unit(train, options.direction)",
            "evidence.unit(np.arange(len(evidence.right)), options.direction)",
        ),
        ("odds-for-probabilities", "steered", "score / 2", "score"),
    ),
    *_of(
        "interp/instruments/steering.py",
        ["test_steering.py::test_random_directions_count_by_their_size_since_their_sign_means_nothing"],
        ("random-directions-cancel", "mean_size", "np.abs(column.mean(axis))", "column.mean(axis)"),
    ),
    *_of(
        "interp/models/readout.py",
        ["test_steering.py::test_a_reader_that_steers_reads_what_one_vector_at_a_time_gives"],
        (
            "nodes-steered-once-for-each-transcript",
            "ConfidenceReader._steer",
            "nodes -= {node for _, steered, added in tree.additions if added is vector for node in steered}",
            "pass",
        ),
        (
            "the-tail-is-steered-at-its-end-alone",
            "ConfidenceReader._steer",
            "{*path[start - before_path:]}",
            "{path[-1]}",
        ),
    ),
    *_of(
        "figures/page/verdict.py",
        ["test_verdict.py"],
        ("an-interval-that-reaches-zero", "_above_zero", "estimate.low > 0", "estimate.low >= 0"),
        ("a-value-within-rounding", "_above_zero", "estimate.measurable", "True"),
        ("too-few-are-enough", "obstacles", "evidence.above_noise.n < FEWEST", "evidence.above_noise.n <= FEWEST"),
        ("a-value-for-an-upper-end", "answer_independent", "evidence.above_noise.high", "evidence.above_noise.value"),
        ("direction-is-not-asked-for", "depends_on_the_answer", "_above_zero(evidence.direction)", "True"),
        ("the-last-rule-that-holds", "verdict_of", "RULES", "RULES[::-1]"),
        ("the-papers-answers-at-any-count", "evidence_of", "count >= FEWEST", "count"),
    ),
    *_of(
        "figures/page/questions.py",
        ["test_page_content.py"],
        ("the-difference-the-other-way", "_with_difference", "after - before", "before - after"),
        ("refusals-are-not-marked", "marks_of", "spread.refused", "False"),
        ("numbers-of-all-runs-by-the-first", "questions_of", "_differences(*by_side)", "by_side[0]"),
    ),
    *_of(
        "figures/page/blocks.py",
        ["test_page.py::test_data_is_json_that_ends_no_script_and_holds_no_control_character"],
        (
            "markup-within-data",
            "json_block",
            "json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(',', ':')).translate(_ESCAPES)",
            "json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(',', ':'))",
        ),
    ),
    *_of(
        "figures/calibration.py",
        ["test_page_content.py"],
        ("the-risk-of-few", "risks_of", "slice(LEAST_COVERED - 1, None)", "slice(LEAST_COVERED, None)"),
    ),
    *_of(
        "interp/calibration.py",
        [
            "test_calibration.py::test_each_large_relation_is_measured_by_itself_as_if_it_were_all",
            "test_calibration.py::test_confidences_that_were_fitted_in_folds_are_compared_within_folds_in_a_relation_too",
        ],
        ("small-relations-by-themselves", "measures_of_relations", "sum(kept) >= fewest", "True"),
        ("folds-of-a-relation-mixed", "measures_of_relations", "tuple(compress(scored.fold, kept))", "()"),
    ),
    *_of(
        "figures/training.py",
        ["test_training.py::test_the_first_of_two_is_ahead_where_it_is_better_and_counted_by_measure"],
        ("parts-as-settings", "settings_grid", "data.endswith((SHARED, APART))", "False"),
    ),
)

if __name__ == "__main__":
    try:
        raise SystemExit(planted(tyro.cli(Options, prog="python -m tests.mutants")))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None

"""Known-bad changes, planted one by one in a copy of the tree: each must be found by the tests of its own room.

`python -m tests.mutants` plants all of them, `python -m tests.mutants rollout` those of one room, or one by its name.
Exit code 0: every one was found; 1: one survived, a hole in the tests; 2: one could not be judged."""

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
    before: str
    """Text that stands exactly once in it."""
    after: str
    """What takes its place."""
    tests: tuple[str, ...]
    """The test files, or single tests, of its room: those that have to find it."""

    @property
    def room(self) -> str:
        """The name of the module that it changes."""
        return Path(self.file).stem

    def planted(self, text: str) -> str:
        """The file's text with the change. Errors: ValueError where `before` does not stand there exactly once."""
        if (times := text.count(self.before)) != 1:
            raise ValueError(f"{self.name}: {self.before!r} stands {times} times in {self.file}, not once")
        return text.replace(self.before, self.after)


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


def _of(file: str, tests: Sequence[str], *changes: tuple[str, str, str]) -> tuple[Mutant, ...]:
    """The mutants of one file: (name, before, after)."""
    named = tuple(f"tests/{test}" for test in tests)
    return tuple(Mutant(name, file, before, after, named) for name, before, after in changes)


MUTANTS: tuple[Mutant, ...] = (
    *_of(
        "interp/instruments/jsd.py",
        ["test_jsd.py"],
        (
            "mean-of-two-divergences-without-the-mixture",
            "(_relative_entropy(p, mixture) + _relative_entropy(q, mixture))",
            "(_relative_entropy(p, q) + _relative_entropy(q, p))",
        ),
        ("bits-instead-of-nats", "np.log(ratio)", "np.log2(ratio)"),
        ("a-tenth-is-not-near-zero", "np.less_equal, NEAR_ZERO", "np.less, NEAR_ZERO"),
        (
            "direction-turned-round",
            'right[0]["expected"] - wrong[0]["expected"]',
            'wrong[0]["expected"] - right[0]["expected"]',
        ),
        (
            "two-wrong-answers-are-a-right-and-a-wrong-one",
            "between(sampled[:1], sampled[1:2])",
            "between(right, sampled[1:2])",
        ),
        ("a-pair-at-a-tenth-is-not-near-zero", "(divergences <= NEAR_ZERO).sum()", "(divergences < NEAR_ZERO).sum()"),
        (
            "sources-are-pooled",
            'branched = by_role.get("wrong", []), by_role.get("branched", [])',
            "branched = [by_role.get('wrong', []) + by_role.get('branched', [])] * 2",
        ),
        (
            "pairs-are-of-branched-answers-too",
            '{"": ("candidate",), "filled_"',
            '{"": ("candidate", "filled"), "filled_"',
        ),
        ("foils-that-may-be-right", " and not may_be_right(question, answer):", ":"),
    ),
    *_of(
        "interp/instruments/rollout.py",
        ["test_rollout.py"],
        ("no-residual", "weights = (weights + weights @ layer) / 2", "weights = weights @ layer"),
        ("a-third-of-attention", "(weights + weights @ layer) / 2", "(2 * weights + weights @ layer) / 3"),
        ("rows-that-double", "(weights + weights @ layer) / 2", "weights + weights @ layer"),
        ("first-layer-read-first", "in reversed(layers)", "in layers"),
        (
            "null-without-residual",
            "(weights + per_seen[::-1].cumsum()[::-1]) / 2",
            "per_seen[::-1].cumsum()[::-1]",
        ),
        ("null-sees-one-token-more", "np.arange(1, tokens + 1)", "np.arange(2, tokens + 2)"),
        ("the-rest-is-not-renormalised", "return kept / total if total > 0 else kept", "return kept"),
        ("the-answers-row-is-the-confidences", "rollout_row(layers, answer_row)}", "rollout_row(layers, row)}"),
        ("the-blank-before-the-levels-is-not-read", "suffixes[0][: common_length(suffixes)]", "suffixes[0][:0]"),
        ("sums-called-means-per-token", "mass / spans.count(span)", "mass"),
        ("the-sinks-mass-of-the-last-layer-alone", "1 - weights.sum(), 0, 1", "(1 - weights.sum()) / 2, 0, 1"),
        ("a-sink-for-every-model", "    if layers.sinks:\n", "    if True:\n"),
    ),
    *_of(
        "interp/models/attention.py",
        ["test_attention.py"],
        ("one-head-for-all", "weights.mean(1, dtype=torch.float32)", "weights[:, 0].float()"),
        ("means-in-half-precision", "weights.mean(1, dtype=torch.float32)", "weights.mean(1).float()"),
        (
            "padded-on-the-left-without-positions",
            "ids[row, : len(prompt)] = torch.tensor(prompt)",
            "ids[row, -len(prompt) :] = torch.tensor(prompt)",
        ),
        ("every-row-sums-to-1", "if not sinks:\n            mean", "if True:\n            mean"),
        ("no-causal-mask", "AttentionMaskInterface.register(SHOWN, eager_mask)", ""),
        ("shown-for-ever", "config._attn_implementation = implementation", "pass"),
    ),
    *_of(
        "interp/models/adapters.py",
        ["test_adapters.py"],
        ("modules-are-not-put-back", "        for restore in self._restorers:\n            restore()\n", ""),
        ("storage-is-not-put-back", "                tensor.data = data\n", "                pass\n"),
        ("what-was-written-into-stays", "not self._spread and all(", "not self._spread or all("),
        ("rows-that-no-file-gave-are-kept", "    if added:\n", "    if False:\n"),
    ),
    *_of(
        "interp/models/hooks.py",
        ["test_hooks.py"],
        ("what-is-merged-into-the-head-reaches-the-embeddings", "    _untie(copied)\n", ""),
        ("the-adapter-is-left-out", "peft.merge_and_unload()", "peft.unload()"),
        (
            "cut-in-the-first-layer-only",
            "range(self.layers) if layers is None else layers",
            "range(1) if layers is None else layers",
        ),
    ),
    *_of(
        "interp/models/prompts.py",
        ["test_prompts.py"],
        ("spans-off-by-one", "owner[end - 1] if end > start", "owner[min(end, len(owner) - 1)] if end > start"),
        ("straddling-tokens-go-to-the-earlier-span", "owner[end - 1] if end > start", "owner[start] if end > start"),
        (
            "level-without-the-blank-before-it",
            'self.tokenizer(f"{transcript.text} {level}", ',
            'self.tokenizer(f"{transcript.text}{level}", ',
        ),
        ("common-beginning-one-token-long", "(i for i, (a, b)", "(i + 1 for i, (a, b)"),
        ("examples-in-rising-confidence", "    draw.shuffle(ranks)\n", ""),
    ),
    *_of(
        "interp/models/templates.py",
        ["test_templates.py"],
        ("the-slot-of-the-prompt-for-generation", "(roles, LAST, EARLIER, GENERATION)", "(roles, GENERATION)"),
        ("a-thought-is-let-pass", "if opens_thought(prompt):", "if False:"),
        ("the-last-turns-end-alone", 'self._after(("user",), EARLIER)]', "]"),
        ("an-earlier-turns-end-alone", 'after = [self._after(("user",), LAST), ', "after = ["),
        ("blanks-hide-an-end", "text.lstrip().startswith(token)", "text.startswith(token)"),
        ("any-token-further-on-ends-a-turn", "text.lstrip().startswith(token)", "token in text"),
        ("the-clock-stays", 'if "strftime_now" in template:', "if False:"),
    ),
    *_of(
        "interp/models/thoughts.py",
        ["test_templates.py"],
        (
            "thoughts-are-answers",
            'text = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", "", text, flags=re.DOTALL)',
            "",
        ),
        ("an-open-thought-is-said", "if opens_thought(text) or (", "if ("),
        ("the-prompts-thought-is-said", "text = text.rpartition(end)[2]", "text = text"),
    ),
    *_of(
        "interp/models/setting.py",
        ["test_templates.py"],
        (
            "eos-alone-ends-a-turn",
            "{*checkpoint.eos_ids, *(end for end in prompter.turn_ends if end < size)}",
            "{*checkpoint.eos_ids}",
        ),
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
        ("siblings-see-each-other", "seen[node] |= seen[parent]", "seen[node, :node] = True"),
        ("positions-count-nodes", "self.depths[after] + 1 if after >= 0 else 0", "len(self.depths)"),
        (
            "padding-moves-positions",
            "pad:] = depths[order]",
            "pad:] = pad + depths[order]",
        ),
        ("window-one-token-wide", "- columns[:, None, :] < window", "- columns[:, None, :] <= window"),
        ("no-token-of-its-own", "shortest = min(map(len, sequences)) - 1", "shortest = min(map(len, sequences))"),
        (
            "trees-in-a-row-see-each-other",
            "np.zeros((sum(sizes), sum(sizes)), dtype=bool)\n    before",
            "np.tri(sum(sizes), dtype=bool)\n    before",
        ),
        ("cuts-that-do-not-cut", "seen[np.ix_(looking, looked_at)] = False", "seen[looking[0], looked_at[0]] = False"),
        (
            "grown-tokens-stay-at-one-position",
            "        self._seen[alive, [node for _, (node,) in forest.places]] = True\n",
            "",
        ),
        ("prompts-are-continued-from-their-ends", "self.columns[self.rows[prompt]] < length)", "True)"),
        (
            "embeddings-in-another-order",
            "there = torch.cat([embeds[i] for i in row])[torch.from_numpy(order).to(device)]",
            "there = torch.cat([embeds[i] for i in row])",
        ),
    ),
    *_of(
        "interp/instruments/floor.py",
        ["test_floor.py"],
        ("read-again-in-the-same-packing", "reader.prefix = setting.prefix.extended(", "setting.prefix.extended("),
        ("floor-by-its-near-end", "return max(abs(end)", "return min(abs(end)"),
        ("shares-have-a-floor", "share|number", "number"),
    ),
    *_of(
        "interp/models/check.py",
        ["test_check.py"],
        (
            "the-check-cuts-nothing",
            "    alone.cuts.append((tuple(range(answer[-1] + 1, len(alone.tokens))), tuple(answer)))\n",
            "",
        ),
        ("allowed-whatever-the-noise", "max(NOISES * noise, ", "max(1.0, "),
        (
            "one-path-alone",
            "for tree, first in ((0, 0), (0, 2), (1, 0))",
            "for tree, first in ((0, 0), (0, 0), (1, 0))",
        ),
    ),
    *_of(
        "interp/models/precision.py",
        ["test_precision.py"],
        ("no-room-for-a-run", "max(ROOM * weights, LEAST_ROOM)", "0"),
        ("training-in-float32", "(not training and fits_in", "(fits_in"),
    ),
    *_of(
        "interp/models/head.py",
        ["test_head.py"],
        ("no-soft-cap", "return logits if self.cap is None else", "return logits if True else"),
        ("logits-unscaled", "if self.scale != 1:", "if False:"),
        ("last-part-of-the-vocabulary-left-out", "range(0, self.size, PART)", "range(0, self.size - PART, PART)"),
        (
            "head-in-half-precision",
            "return hidden.to(torch.promote_types(hidden.dtype, torch.float32))",
            "return hidden",
        ),
        ("norm-of-dora-left-out", "/ norm * weight", "* weight"),
    ),
    *_of(
        "interp/models/readout.py",
        ["test_readout.py"],
        ("levels-without-their-end", "if not self.level_ends.shape[1]:", "if True:"),
        ("no-blank-before-the-end", "for token in may_follow:", "for token in ():"),
        ("a-filler-costs-nothing", ".index_add(-1, self.filler_ends, fillers)", ""),
        ("one-way-to-end-is-enough", "[..., self.level_ends].logsumexp(-1)", "[..., self.level_ends].amax(-1)"),
        ("plans-share-their-ends", "plan.level_ends + int(end)", "plan.level_ends"),
        ("all-tokens-of-a-level-but-its-end", "read = common_length(suffixes) + 1", "read = max(map(len, suffixes))"),
        ("not-renormalised", "(logprobs - mass).exp()", "logprobs.exp()"),
        ("outside-is-inside", "1 - mass.exp().item()", "mass.exp().item()"),
        ("answers-without-the-end-of-their-line", "(*answer, answer[-1] + 1) if", "answer if"),
        ("the-end-of-the-line-is-counted", "max(len(plan.answer_tokens) - 1, 0)", "len(plan.answer_tokens)"),
        (
            "readings-of-other-transcripts",
            "strict=True):\n                said = self.dist",
            "strict=True):\n                transcript = owners[index][-1]\n                said = self.dist",
        ),
    ),
    *_of(
        "interp/formats.py",
        ["test_formats.py"],
        ("values-in-reverse", 'tuple("EDCBA")', 'tuple("ABCDE")'),
        ("beginnings-are-levels", "level.casefold() == said)", "said.startswith(level.casefold()))"),
        ("a-tenth-of-the-scale-is-missing", "i / (count - 1)", "i / count"),
    ),
    *_of(
        "interp/records.py",
        ["test_jsd.py"],
        ("stated-is-the-least-likely-level", "np.argmax(self.probability)", "np.argmin(self.probability)"),
        ("flagged-where-levels-are-stated", "self.outside > 0.5", "self.outside < 0.5"),
    ),
    *_of(
        "interp/models/elicitation.py",
        ["test_elicitation_sampling.py", "test_generation.py"],
        ("nucleus-one-token-short", "likely.where(before < top_p, 0)", "likely.where(before + likely < top_p, 0)"),
        (
            "nucleus-one-token-long",
            "likely.where(before < top_p, 0)",
            "likely.where(before - likely.roll(1, -1) < top_p, 0)",
        ),
        ("one-chance-for-all-draws", '{question.id}|{number}"', '{question.id}"'),
        ("greedy-takes-the-least-likely", "rows: logits.argmax(-1)", "rows: logits.argmin(-1)"),
        ("an-answer-cut-off-is-one", "if said.finished and said.text else None, None", "if said.text else None, None"),
        ("the-last-line-of-a-cut-reply-counts", "[: None if finished else -1]", "[:]"),
        ("every-branch-begins-with-the-likeliest", "order[number, start.rank]", "order[number, 0]"),
    ),
    *_of(
        "interp/pipelines/candidates.py",
        ["test_candidates.py"],
        ("wrong-answers-are-not-vetted", " and not may_be_right(question, answer)", ""),
        (
            "words-of-the-question-are-wrong-answers",
            'return f" {normalised(answer)} " not in f" {normalised(question.text)} " and',
            "return",
        ),
        (
            "unlikely-beginnings-first",
            "key=lambda first: (-self._known[first], first)",
            "key=lambda first: (self._known[first], first)",
        ),
        ("a-beginning-is-as-likely-as-its-last-token", "logprob + step", "step"),
        ("unlikely-answers-of-a-round-first", "key=lambda one: -one[1]", "key=lambda one: one[1]"),
        (
            "what-was-sampled-and-branched-is-branched",
            '"both" if all(ways) else "sampled"',
            '"sampled" if ways == [True, False] else "branched"  #',
        ),
    ),
    *_of(
        "interp/datasets/questions.py",
        ["test_questions.py"],
        ("right-within-a-longer-reply", "any(said == normalised(answer)", "any(normalised(answer) in said"),
        (
            "nothing-else-may-be-right",
            "            return True\n    return _short",
            "            continue\n    return _short",
        ),
        ("abbreviations-are-other-answers", "return _short_for_one(question, reply)", "return False"),
        ("every-short-word-is-an-abbreviation", "(capitals or dotted)", "True"),
        ("spellings-are-other-answers", "ratio() > SIMILAR", "ratio() > 1"),
        ("minus-five-is-five", r"(?!(?<!\w)-\d)[^\w\s]", r"[^\w\s]"),
        ("the-first-choice-is-right", "choice_index(question.answers[0], question.choices)", "0"),
    ),
    *_of(
        "interp/instruments/masking.py",
        ["test_masking.py"],
        (
            "the-last-token-is-not-masked",
            "tuple(paths[name][i] for i in positions)",
            "tuple(paths[name][i] for i in positions[:-1])",
        ),
        ("a-rise-is-called-a-drop", 'seen["expected"] - one["expected"]', 'one["expected"] - seen["expected"]'),
        ("levels-still-see-the-answer", "((*looking, *levels), tuple", "((*looking,), tuple"),
        (
            "what-lies-between-is-cut-too",
            "len(ids) - 1 if name == CUTS[0] else after",
            "after",
        ),
        ("the-mean-of-the-table-not-of-what-layers-receive", "table(part).float()", "table.weight[part].float()"),
        (
            "pad-that-ends-a-turn-is-a-filler",
            "taken = {*stops, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}",
            "taken = {tokenizer.bos_token_id, tokenizer.unk_token_id}",
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
        ("left-riemann-sums", 'method="gausslegendre"', 'method="riemann_left"'),
        ("weights-that-sum-to-more-than-1", "batch\n        )[0]", "batch\n        )[0] * (1 + 1 / nodes)"),
        ("nothing-is-refused", "gap, nodes, settled < 2, floor)", "gap, nodes, False, floor)"),
        ("the-floor-is-allowed-once", "3 * floor)", "floor)"),
        (
            "paths-are-formed-in-the-models-dtype",
            "rest.at(positions), rest.embeds.float()",
            "rest.at(positions), rest.embeds",
        ),
        ("bounds-whose-directions-cancel", "gradient.norm(dim=-1) * away.norm(dim=-1)", "(gradient * away).sum(-1)"),
        ("a-rank-is-never-counted-enough", "if rank > COUNTED:", "if False:"),
        ("dear-tokens-first", "bound / (tokens - np.arange(tokens))", "bound * (tokens - np.arange(tokens))"),
        ("one-lucky-gap-settles-it", "settled == 2 or", "settled == 1 or"),
        ("a-tenth-of-the-effect-may-be-missing", "0.01 * abs(effect)", "0.1 * abs(effect)"),
        ("rank-by-sign", "abs(effect) > max(sizes)", "effect > max(sizes)"),
        ("rank-of-the-worst-token", "> max(sizes)", "> min(sizes)"),
        ("mean-rank", 'np.median if name == "answer.rank" else np.mean', "np.mean"),
        ("legs-in-another-order", "pairwise(scores))[::-1]", "pairwise(scores))"),
        ("effects-turned-round", "[name] = seen - left", "[name] = left - seen"),
        ("refused-tokens-are-shown", "[None] * len(ids) if first.refused else list", "list"),
    ),
    *_of(
        "interp/calibration.py",
        ["test_calibration.py"],
        ("bins-closed-on-the-other-side", 'if closed == "left"', 'if closed == "right"'),
        (
            "bins-whose-errors-cancel",
            "np.abs(np.where(there, excess, 0).sum(-1))",
            "np.where(there, excess, 0).sum(-1)",
        ),
        (
            "underconfidence-called-overconfidence",
            "return over_questions(right - confidence)",
            "return over_questions(confidence - right)",
        ),
        (
            "brier-without-the-square",
            "over_questions((right - confidence) ** 2)",
            "over_questions(np.abs(right - confidence))",
        ),
        ("ties-count-as-won", "2.0 * group, axis=-1)", '2.0 * group, axis=-1, method="max")'),
        ("pairs-of-all-groups", "rankdata(confidence + 2.0 * group", "rankdata(confidence + 0.0 * group"),
        (
            "ties-in-the-order-of-the-file",
            "risk = np.cumsum(rate[tie], -1)",
            "risk = np.cumsum(np.atleast_2d(wrong), -1)",
        ),
        (
            "no-floor-for-timid-formats",
            "max(0.0, accuracy - max(values), min(values) - accuracy)",
            "max(0.0, min(values) - accuracy)",
        ),
        ("kernel-not-reflected-at-1", "for k in range(-3, 4)] + [2 * k", "for k in range(-3, 4)] + [2 * abs(k) - 6"),
        (
            "differences-turned-round",
            "measure(*both[: len(first)]) - measure(*both[len(first) :])",
            "measure(*both[len(first) :]) - measure(*both[: len(first)])",
        ),
        ("left-out-is-not-counted", "measure, scored.left_out)", "measure, 0)"),
    ),
    *_of(
        "interp/intervals.py",
        ["test_intervals.py"],
        ("ninety-per-cent", "(2.5, 97.5)", "(5, 95)"),
        ("ends-swapped", "low, high = np.nanpercentile", "high, low = np.nanpercentile"),
        ("pairs-torn-apart", "paired=True", "paired=False"),
        (
            "before-less-after",
            "statistic(*x[count:], axis=-1) - statistic(*x[:count], axis=-1)",
            "statistic(*x[:count], axis=-1) - statistic(*x[count:], axis=-1)",
        ),
        ("what-is-no-number-is-not-counted", "left_out = len(values) - len(there[0])", "left_out = 0"),
        (
            "the-mean-of-shares-for-the-share-of-all",
            "part.sum(axis=axis), whole.sum(axis=axis)",
            "(part / whole).sum(axis=axis), (whole / whole).sum(axis=axis)",
        ),
        ("the-same-seed-for-all", "np.random.default_rng(seed)", "np.random.default_rng(0)"),
    ),
    *_of(
        "interp/pipelines/compare.py",
        ["test_compare.py"],
        (
            "before-and-after-swapped",
            "difference(values, after[key][0], statistic)",
            "difference(after[key][0], values, statistic)",
        ),
        ("answers-of-its-own-on-each-side", 'None if name == "before" else self.folder / "before"', "None"),
    ),
    *_of(
        "interp/methods.py",
        [
            "test_evaluate.py::test_costs_are_those_of_the_words_that_were_written",
            "test_evaluate.py::test_an_answers_likelihood_is_taken_whole_and_by_the_token_with_the_end_of_its_line",
            "test_evaluate.py::test_self_consistency_is_the_sum_of_the_largest_groups_confidences_over_all_samples",
            "test_evaluate.py::test_question_only_hides_the_answer_as_masking_does",
        ],
        (
            "confidence-of-the-group-over-the-group",
            'for i in largest) / record["of"]',
            "for i in largest) / len(largest)",
        ),
        ("the-end-of-the-line-is-no-token", '(record["answer_tokens"] + 1)', 'record["answer_tokens"]'),
        ("level-tokens-without-their-end", "[said.stated]) + 1", "[said.stated])"),
        (
            "the-answer-is-not-hidden",
            "fillers=fillers, seen=False)",
            'fillers=fillers, seen=False, span="tail")',
        ),
        ("the-smallest-group-wins", "largest = max(groups", "largest = min(groups"),
    ),
    *_of(
        "interp/pipelines/evaluate.py",
        [
            "test_evaluate.py::test_several_checkpoints_share_their_base_and_differ_as_they_do_alone",
            "test_evaluate.py::test_unparsed_replies_are_counted_and_stand_in_the_worst_case",
        ],
        ("unparsed-is-not-counted", "len(questions) - len(told),", "0,"),
        ("the-worst-case-is-modest", "FORMATS[cell.format].values[-1])", "FORMATS[cell.format].values[0])"),
        ("first-less-later", "for one in (verdicts, before))", "for one in (before, verdicts))"),
        (
            "the-likeliest-level-instead-of-the-written-one",
            '            record |= {"stated": told',
            '            record | {"stated": told',
        ),
    ),
    *_of(
        "interp/run/runs.py",
        ["test_runs.py"],
        (
            "a-torn-line-is-kept",
            "stream.truncate(whole)\n    stream.seek(whole)",
            "stream.seek(0, 2)",
        ),
        ("everything-is-measured-again", "self.done.add(key_of(record))\n            self._read", "self._read"),
        (
            "two-processes-at-once",
            "            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
            "            pass\n",
        ),
        ("another-configuration-goes-on", "if before.get(k) != self.identity.get(k)]", "if k not in self.identity]"),
    ),
    *_of(
        "interp/run/runs.py",
        MERGED,
        ("what-others-wrote-is-not-merged", "if self._merged:\n            return", "if True:\n            return"),
    ),
    *_of(
        "interp/run/shares.py",
        MERGED,
        ("merged-in-the-order-of-the-files", "for key in keys:\n", "for key in list(self.places):\n"),
        ("the-last-record-is-lost", 'if not line.endswith(b"\\n"):', "if not stream.peek(1):"),
        ("a-share-is-read-from-its-start-again", "self._read[path] = start = stop", "start = stop"),
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
        ("the-first-chunk-gives-the-rate-too", "later = self.chunks[1:] or self.chunks", "later = self.chunks"),
        (
            "what-happens-once-is-left-out",
            "self.times * (self.once + self.rate * self.whole)",
            "self.times * self.rate * self.whole",
        ),
        ("what-is-on-record-is-left", "self.whole - self.kept - self.measured", "self.whole - self.measured"),
        (
            "questions-for-tokens",
            "size = sum(self._sizes.get(identity, self.mean_size) for identity in ids)",
            "size = len(ids) * self.mean_size",
        ),
        (
            "all-are-taken-to-be-right",
            "math.ceil(self.cases * asked / right / at_once)",
            "math.ceil(self.cases / at_once)",
        ),
        ("more-cases-than-there-are", "self.cases = min(wanted, right * there / asked)", "self.cases = wanted"),
        (
            "measured-now-counts-as-kept",
            "        self.chunks.append(chunk)\n        self.known |= set(ids)\n",
            "        self.chunks.append(chunk)\n",
        ),
        ("one-long-question-is-enough", "self.chunks[0].items >= FEW and ", ""),
    ),
    *_of(
        "interp/run/processes.py",
        ["test_processes.py::test_processes_without_a_gpu_know_each_other_whatever_device_was_asked_for"],
        ("a-cpu-only-where-it-is-named", 'cpu=device == "cpu" or not torch.cuda.is_available()', 'cpu=device == "cpu"'),
    ),
    *_of(
        "interp/run/processes.py",
        ["test_processes.py::test_the_shares_of_all_processes_are_the_items_each_once"],
        ("every-process-has-all", "return items[self.index :: self.count]", "return items"),
        ("shares-overlap", "return items[self.index :: self.count]", "return items[self.index :]"),
    ),
    *_of(
        "interp/run/recording.py",
        ["test_recording.py"],
        (
            "the-chunk-that-did-not-fit-is-left-out",
            "                continue\n",
            "                missing = missing[len(chunk) :]\n                continue\n",
        ),
        ("batches-are-not-halved", "setting.prefix.batch_tokens // 2)", "setting.prefix.batch_tokens)"),
    ),
    *_of(
        "interp/pipelines/diagnose.py",
        [
            "test_diagnose.py::test_the_users_own_responses_stand_in_for_the_models_answers",
            "test_diagnose.py::test_sets_of_examples_are_averaged_by_question_and_their_spread_is_shown",
            "test_diagnose.py::test_what_was_cut_off_or_does_not_parse_is_counted",
        ],
        (
            "wrong-answers-are-measured-as-right",
            'for q in chunk if told[q.id]["right"]]',
            'for q in chunk if told[q.id]["answer"]]',
        ),
        ("sets-of-examples-are-not-averaged", "float(np.mean(there))", "there[0]"),
        ("unanswered-is-not-counted", 'record["answer"] is None for', 'record["answer"] == "" for'),
    ),
    *_of(
        "training/losses.py",
        ["test_losses.py"],
        ("divergence-not-halved", "(q.exp() * (q - mixture)).sum(-1)) / 2", "(q.exp() * (q - mixture)).sum(-1))"),
        (
            "divergence-is-punished",
            "(wanted - jensen_shannon(right, wrong))",
            "(jensen_shannon(right, wrong) - wanted)",
        ),
        (
            "margin-turned-round",
            "(expected(right, values) - expected(wrong, values))",
            "(expected(wrong, values) - expected(right, values))",
        ),
        (
            "sum-without-its-size",
            "(expected(right, values) + expected(wrong, values))).abs()",
            "(expected(right, values) + expected(wrong, values)))",
        ),
        ("sum-to-a-half", "return (1 - (expected(right", "return (0.5 - (expected(right"),
        ("answers-are-unlearned", "weights.lm * -answer_logprob", "weights.lm * answer_logprob"),
        (
            "tokenized-brier-without-the-square",
            "(right.to(values)[..., None] - values) ** 2",
            "(right.to(values)[..., None] - values).abs()",
        ),
    ),
    *_of(
        "training/packing.py",
        ["test_training.py::test_a_packed_row_gives_the_loss_and_the_gradients_of_separate_sequences"],
        ("answers-see-each-other", "tree.sight()[None]", "np.tri(len(tree.tokens), dtype=bool)[None]"),
        ("tokens-stand-where-they-are-packed", "np.array([tree.depths])", "np.arange(len(tree.depths))[None]"),
        ("all-answers-are-the-first-ones", "[i for i, plan in enumerate(plans) for _", "[0 for plan in plans for _"),
    ),
    *_of(
        "training/objectives.py",
        ["test_training.py::test_the_terms_of_both_objectives_are_what_their_definitions_give_of_whole_texts"],
        ("right-and-wrong-swapped", "said.levels[0::2], said.levels[1::2]", "said.levels[1::2], said.levels[0::2]"),
        ("levels-are-unlearned", "weight * -mass", "weight * mass"),
        ("the-wrong-answer-is-learned", "said.answers[0::2]", "said.answers[1::2]"),
    ),
    *_of(
        "training/batches.py",
        [
            "test_training.py::test_mini_batches_hold_one_format_and_every_triplet_once_an_epoch",
            "test_training.py::test_no_question_is_both_trained_on_and_held_out",
        ],
        ("updates-shared-out-among-processes", "recipe.accumulation * processes]", "recipe.accumulation]"),
        (
            "held-out-by-example",
            "if e.question.id not in kept]",
            "if e.question.id not in kept or e.format == 'ScoreLetter']",
        ),
        ("one-order-for-all-epochs", 'f"{options.seed}-{epoch}"', 'f"{options.seed}"'),
    ),
    *_of(
        "training/loop.py",
        [
            "test_training.py::test_an_adapter_on_the_last_layers_changes_only_those",
            "test_training.py::test_only_the_second_adapter_has_gradients_and_the_first_keeps_its_bytes",
            "test_training.py::test_two_processes_learn_what_one_does_with_twice_the_accumulation",
        ],
        ("the-first-layers-instead-of-the-last", "list(range(layers - wanted, layers))", "list(range(wanted))"),
        ("the-first-adapter-learns-too", "inference_mode=True)  # the last", "inference_mode=False)  # the last"),
        ("the-first-adapter-drops-out", "module.lora_dropout[below] = torch.nn.Identity()", "pass"),
        ("the-first-adapter-is-off", "set_adapter([below, SECOND], inf", "set_adapter([SECOND], inf"),
        ("updates-not-divided-by-processes", "(recipe.accumulation * processes.count)", "recipe.accumulation"),
    ),
    *_of(
        "training/adapters.py",
        ["test_training.py::test_what_is_saved_is_the_model_that_was_trained_within_the_rounding_of_float16"],
        ("stacked-without-their-scales", ".float().cpu() * config.lora_alpha / config.r if", ".float().cpu() if"),
    ),
    *_of(
        "training/triplets.py",
        [
            "test_training.py::test_every_pass_takes_the_next_wrong_answer",
            "test_training.py::test_letter_case_and_final_punctuation_do_not_tell_right_from_wrong",
            "test_training.py::test_triplets_are_the_models_own_right_and_wrong_answers",
            "test_training.py::test_what_is_tested_on_is_not_trained_on",
            "test_training.py::test_branches_follow_the_sampled_wrong_answers_of_a_triplet_and_are_named",
        ],
        ("branches-in-place-of-samples", 'sources[text] != "branched" or len(wrong) < most', "True"),
        ("wrong-called-right", '{"right": bare, "wrong": first,', '{"right": first, "wrong": bare,'),
        ("one-wrong-answer-for-all-passes", "[epoch % (1 + len(self.others))]", "[0]"),
        (
            "looks-tell-which-is-wrong",
            "other = (other[0].upper() if one[0].isupper() else other[0].lower()) + other[1:]",
            "pass",
        ),
        ("tested-questions-are-trained-on", "if normalised(q.text) not in tested]", "if q.text not in tested]"),
    ),
    *_of(
        "figures/captions.py",
        ["test_figures.py"],
        ("asked-and-right-swapped", 'data["asked"],\n        data["right"],', 'data["right"],\n        data["asked"],'),
        (
            "counted-and-left-out-swapped",
            "(n = {estimate.n}, {estimate.left_out} left out)",
            "(n = {estimate.left_out}, {estimate.n} left out)",
        ),
    ),
    *_of(
        "figures/jsd.py",
        ["test_figures.py"],
        ("bins-closed-on-the-left", 'values, side="left")', 'values, side="right")'),
        ("all-sets-of-examples-counted", "questions, floors = averaged(records)", "questions, floors = list(records)"),
    ),
    *_of(
        "figures/likelihood.py",
        ["test_figures.py"],
        ("the-first-wrong-answer-alone", "get(role, ())", "get(role, ())[:1]"),
    ),
    *_of(
        "figures/calibration.py",
        ["test_evaluate.py::test_the_bars_and_dots_count_every_answer_once_at_its_level"],
        ("right-bars-are-wrong-ones", '[0 if right[record["id"]] else 1]', '[1 if right[record["id"]] else 0]'),
    ),
)

if __name__ == "__main__":
    try:
        raise SystemExit(planted(tyro.cli(Options, prog="python -m tests.mutants")))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None

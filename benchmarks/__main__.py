"""`python -m benchmarks [name ...]`: one JSON line for each ratio, on the embedded model unless --ckpt says otherwise.

Bare times mean nothing on a machine that others use: each line compares two ways of doing the same in one run, the
repetitions interleaved, and takes the medians. `share_of_machine` is the rate of ours against that of one large matrix
product in the same run, in floating-point operations of matrix products a second: 1 is what no program can beat."""

import gc
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from interp.models.embedded import EMBEDDED_NAME

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from interp.models.setting import Setting
    from interp.records import Question

WORDS = (
    "Lima",
    "Cusco",
    "Quito",
    "Bogota",
    "Paris",
    "Rome",
    "Oslo",
    "Cairo",
    "Tokyo",
    "Delhi",
    "Accra",
    "Dakar",
    "Sofia",
)


@dataclass(frozen=True)
class Benchmarks:
    """Measure ratios against the naive way."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which ones, all by default: readout, greedy, default, self_consistency, masking, flow, rollout,
    rollout_memory, attribution, memory, training, command_help."""

    ckpt: str = EMBEDDED_NAME
    """The model."""
    data: str = "facts"
    """The questions of greedy, default, self_consistency and masking."""
    n: int = 64
    """How many of them; masking takes 8."""
    repeats: int = 3
    """How often each side is timed."""


def timed(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each way, after one untimed call of each, the repetitions interleaved."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if turn:
                taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in taken.items()}


SIDE = 1536
"""Side of the matrices of the product that tells how fast the machine is."""


def timed_with_share(
    ways: dict[str, Callable[[], object]], setting: "Setting", repeats: int
) -> tuple[dict[str, float], float]:
    """Median seconds of each way, and what share of the machine's matrix-product rate the way "ours" reaches."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = setting.checkpoint.model
    square = torch.randn(SIDE, SIDE).to(model.device, model.dtype)
    product = {"product": lambda: (square @ square)[0, 0].item()}  # the number is there when the product is done
    seconds = timed(ways | product, repeats)
    with FlopCounterMode(display=False) as counter:
        ways["ours"]()
    return seconds, counter.get_total_flops() / seconds["ours"] / (2 * SIDE**3 / seconds["product"])


def tokens_fed(setting: "Setting", way: Callable[[], object]) -> int:
    """How many tokens, padding included, the model is fed."""
    counts: list[int] = []
    layers = next(module for module in setting.checkpoint.model.modules() if hasattr(module, "layers")).layers
    hook = layers[0].register_forward_pre_hook(lambda module, args: counts.append(args[0].shape[:2].numel()))
    try:
        way()
    finally:
        hook.remove()
    return sum(counts)


def readout(options: Benchmarks) -> dict:
    """Confidence in 30 answers to one question, against one full forward pass per answer over the same tokens."""
    from interp.models.prefix import SharedPrefix
    from interp.models.readout import ConfidenceReader

    setting, question = _setting(options), _question()
    answers = [f"{a} {b}" for a in WORDS for b in WORDS if a != b][::5][:30]
    transcripts = [setting.prompter.transcript(question, answer) for answer in answers]
    stops = setting.stops
    nothing = SharedPrefix(setting.checkpoint.model, ())
    shared_prefix = setting.prompter.transcript(question).ids

    def each_in_full() -> list:
        alone = ConfidenceReader(nothing, setting.prompter, stops)
        return [alone.readings([transcript])[0].distribution.probability for transcript in transcripts]

    def together() -> list:
        reader = ConfidenceReader(nothing.extended(shared_prefix), setting.prompter, stops)
        return [reading.distribution.probability for reading in reader.readings(transcripts)]

    gap = max(abs(a - b) for p, q in zip(each_in_full(), together(), strict=True) for a, b in zip(p, q, strict=True))
    seconds, share = timed_with_share({"naive": each_in_full, "ours": together}, setting, options.repeats)
    length = len(shared_prefix)
    nodes = [len(setting.reader.plan(transcript, 0)[0].tokens) for transcript in transcripts]
    own = statistics.mean(nodes) - length
    ideal = (length + own) / (length / len(answers) + own)
    ratio = seconds["naive"] / seconds["ours"]
    return {
        "ratio": ratio,
        "ideal": ideal,
        "share_of_ideal": ratio / ideal,
        "share_of_machine": share,
        "prefix_tokens": length,
        "tokens_per_answer": own,
        "largest_difference": gap,
    }


def greedy(options: Benchmarks) -> dict:
    """Greedy answers to questions, against `generate` question by question with the same stopping tokens."""
    import torch

    from interp.models.elicitation import ANSWER_TOKENS

    setting = _setting(options)
    model, tokenizer = setting.checkpoint.model, setting.checkpoint.tokenizer
    prompts = [setting.prompter.transcript(question).ids for question in _questions(options)]

    def one_by_one() -> list[str]:
        texts = []
        for prompt in prompts:
            ids = torch.tensor([prompt], device=model.device)
            written = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=ANSWER_TOKENS,
                do_sample=False,
                eos_token_id=list(setting.stops),
                pad_token_id=tokenizer.eos_token_id,
            )
            texts.append(tokenizer.decode(written[0, len(prompt) :], skip_special_tokens=True).strip().split("\n")[0])
        return texts

    def together() -> list[str]:
        return [said.text for said in setting.generator.greedy(prompts)]

    same = sum(a.strip() == b for a, b in zip(one_by_one(), together(), strict=True))
    seconds, share = timed_with_share({"naive": one_by_one, "ours": together}, setting, options.repeats)
    return {
        "ratio": seconds["naive"] / seconds["ours"],
        "share_of_machine": share,
        "questions": len(prompts),
        "same_answers": same,
    }


def default(options: Benchmarks) -> dict:
    """Answer and stated confidence for questions, against one `generate` call for each that writes both lines, and
    against ours with every prompt read twice, once for the answer and once for the confidence."""
    import torch

    setting, questions = _setting(options), _questions(options)
    model, tokenizer = setting.checkpoint.model, setting.checkpoint.tokenizer
    prompts = [setting.prompter.transcript(question).ids for question in questions]

    def one_by_one() -> list[str]:
        answers = []
        for prompt in prompts:
            ids = torch.tensor([prompt], device=model.device)
            written = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=32,
                do_sample=False,
                eos_token_id=list(setting.turn_ends),
                pad_token_id=tokenizer.eos_token_id,
            )
            answers.append(tokenizer.decode(written[0, len(prompt) :]).strip().split("\n")[0])
        return answers

    same = sum(a == (b["answer"] or a) for a, b in zip(one_by_one(), _by_default(setting, questions), strict=True))
    ways = {
        "naive": one_by_one,
        "twice": lambda: _reading_twice(setting, questions),
        "ours": lambda: _by_default(setting, questions),
    }
    seconds, share = timed_with_share(ways, setting, options.repeats)
    return {
        "ratio": seconds["naive"] / seconds["ours"],
        "ratio_reading_twice": seconds["twice"] / seconds["ours"],
        "tokens_reading_twice": tokens_fed(setting, ways["twice"]) / tokens_fed(setting, ways["ours"]),
        "share_of_machine": share,
        "questions": len(questions),
        "same_answers": same,
    }


def self_consistency(options: Benchmarks) -> dict:
    """Five sampled answers and confidences for each question, in times of one greedy answer and confidence."""
    from interp.methods.base import Answered, Draws
    from interp.methods.self_consistency import sampled

    setting, questions = _setting(options), _questions(options)
    asked = [Answered(question, "") for question in questions]
    ways = {
        "default": lambda: _by_default(setting, questions),
        "ours": lambda: sampled(setting, asked, Draws(samples=5)),
    }
    seconds, share = timed_with_share(ways, setting, options.repeats)
    return {
        "times_default": seconds["ours"] / seconds["default"],
        "share_of_machine": share,
        "questions": len(questions),
    }


def masking(options: Benchmarks) -> dict:
    """Masking of 8 questions, against a pass over the whole prompt for each question and variant."""
    import dataclasses

    from interp.instruments.masking import KNOCKOUTS, distributions, measured, replacement_embeddings, variants
    from interp.models.prefix import SharedPrefix
    from interp.models.readout import ConfidenceReader
    from interp.models.setting import Case

    setting = _setting(options)
    cases = [Case(question, question.answers[0]) for question in _questions(options)[:8]]
    nothing = SharedPrefix(setting.checkpoint.model, ())
    reader = ConfidenceReader(nothing, setting.prompter, setting.stops)
    alone, replacements = dataclasses.replace(setting, prefix=nothing, reader=reader), replacement_embeddings(setting)

    def each_in_full() -> list[float]:
        found = []
        for case in cases:
            transcript = setting.prompter.transcript(case.question, case.answer)
            for name in ("seen", *replacements, *KNOCKOUTS):
                own = {name: replacements[name]} if name in replacements else {}
                knockouts = [name] if name in KNOCKOUTS else []
                made = variants(alone, transcript, 0, replacements=own, knockouts=knockouts, seen=not own)
                found.append(distributions(alone, 0, [made], own)[0][name].expected)
        return found

    def together() -> list[float]:
        records = measured(setting, cases)
        return [one["expected"] for r in records for one in (r["seen"], *r["masked"].values())]

    gap = max(abs(a - b) for a, b in zip(each_in_full(), together(), strict=True))
    seconds, share = timed_with_share({"naive": each_in_full, "ours": together}, setting, options.repeats)
    return {
        "ratio": seconds["naive"] / seconds["ours"],
        "share_of_machine": share,
        "questions": len(cases),
        "largest_difference": gap,
    }


def flow(options: Benchmarks) -> dict:
    """Flow of one question: tokens fed, in passes of its whole prompt; the naive way takes one for each condition."""
    from interp.instruments.base import Kept
    from interp.instruments.flow import FlowOptions, measured
    from interp.models.setting import Case

    setting = _setting(options)
    first, second = _questions(options)[:2]
    case = Case(first, first.answers[0], (second.answers[0],))
    (record,) = measured(setting, [case], FlowOptions(), Kept(folder=Path()))
    conditions = 2 * len(record["knockouts"]) + sum(len(group) for group in record["swap_controls"].values())
    conditions += 2 * sum(len(windows) for windows in record["windows"].values())
    conditions += 2 * sum(len(layers) for layers in record["swaps"].values())
    passes = record["values"]["passes"]
    return {"conditions": conditions, "passes": passes, "passes_a_condition": passes / conditions}


def rollout(options: Benchmarks) -> dict:
    """Rollout of one prompt, against one plain eager forward pass over the same tokens."""
    import torch

    from interp.instruments.rollout import measured
    from interp.models.setting import Case

    setting, question = _setting(options), _question()
    case, model = Case(question, "Lima"), setting.checkpoint.model
    ids = torch.tensor([setting.prompter.transcript(question, "Lima").ids], device=model.device)

    def plain() -> None:
        with _eager(model), torch.no_grad():
            model(ids).logits[0, -1, 0].item()

    ways = {"plain": plain, "ours": lambda: measured(setting, [case])}
    seconds, share = timed_with_share(ways, setting, max(5, options.repeats))
    return {
        "times_a_forward_pass": seconds["ours"] / seconds["plain"],
        "share_of_machine": share,
        "tokens": ids.shape[1],
    }


@contextmanager
def _eager(model: "PreTrainedModel | PeftModel") -> Iterator[None]:
    """Attention whose weights can be had."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def rollout_memory(options: Benchmarks) -> dict:
    """Peak extra memory of rollout at 1,000 tokens, against output_attentions with the textbook product."""
    peaks = {way: _peak_of(options, f"_rollout_peak_{way}") for way in ("ours", "textbook")}
    return {"share_of_textbook": peaks["ours"] / peaks["textbook"], **{f"{k}_mib": v / 1024 for k, v in peaks.items()}}


def attribution(options: Benchmarks) -> dict:
    """Integrated gradients of the answer, against captum's 1,024 steps over the whole prompt (32 timed and scaled)."""
    import torch
    from captum.attr import IntegratedGradients

    from interp.instruments.gradients import integrated_gradients
    from interp.instruments.masking import replacement_embeddings
    from interp.instruments.scorer import Scorer

    setting, question = _setting(options), _question()
    transcript = setting.prompter.transcript(question, "Ciudad de Lima")
    values = torch.tensor(setting.prompter.confidence.values)
    scorer = Scorer(setting, transcript, lambda levels: levels.softmax(-1) @ values)
    replacement = replacement_embeddings(setting)["mean"]
    answer, everything = transcript.positions("answer"), list(range(len(transcript.ids)))
    (seen,) = scorer.replaced([((), replacement)])
    masked, blank = scorer.replaced([(answer, replacement), (everything, replacement)])
    gaps = {}

    def ours() -> None:
        found = integrated_gradients(
            scorer.along(answer, replacement), len(answer), effect=seen - masked, score_range=1.0
        )
        gaps["ours"] = abs(found.gap)

    def captum_32() -> None:
        here = torch.ones(1, len(everything))
        found = IntegratedGradients(scorer.along(everything, replacement)).attribute(
            here, here * 0, n_steps=32, method="gausslegendre", internal_batch_size=8
        )
        gaps["captum"] = abs(found.sum().item() - (seen - blank))

    seconds, share = timed_with_share({"ours": ours, "captum": captum_32}, setting, 1)
    return {
        "ratio": seconds["captum"] * 1024 / 32 / seconds["ours"],
        "share_of_machine": share,
        "gap": gaps["ours"],
        "gap_of_captum_at_32": gaps["captum"],
        "answer_tokens": len(answer),
    }


def memory(options: Benchmarks) -> dict:
    """Peak memory and time of JSD on 16 and on 64 questions: flat and linear, if right."""
    measured = {n: _child(options, f"_diagnose_peak({n})") for n in (16, 64)}
    (few, many) = measured.values()
    return {"memory_64_over_16": many["peak"] / few["peak"], "seconds_64_over_16": many["seconds"] / few["seconds"]}


def command_help(options: Benchmarks) -> dict:
    """Seconds until --help has answered, for each command: the one number that is not a ratio."""
    commands = ("interp.diagnose", "interp.jsd", "interp.rollout", "interp.attribution", "interp.masking")
    commands += ("interp.evaluate", "interp.prompts", "figures")
    seconds = {}
    for command in commands:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", command, "--help"], capture_output=True, check=True)
        seconds[command] = round(time.perf_counter() - begin, 2)
    return {"seconds": seconds}


def _setting(options: Benchmarks) -> "Setting":
    from interp.formats import FORMATS
    from interp.models.checkpoints import loaded_checkpoint
    from interp.models.setting import prepared

    checkpoint = loaded_checkpoint(options.ckpt)
    choices = bool(_questions(options)[0].choices)
    return prepared(checkpoint, FORMATS["ScoreNumber"], shots=checkpoint.shots, choices=choices)


def _questions(options: Benchmarks) -> "list[Question]":
    from interp.datasets.questions import loaded_questions, shuffled

    return shuffled(loaded_questions(options.data), 0)[: options.n]


def _by_default(setting: "Setting", questions: "list[Question]") -> list[dict]:
    """Answer and confidence of each question as `interp.evaluate` has them."""
    from interp.methods.default import answered_and_read

    return answered_and_read(setting, questions, free=False)[0]


def _reading_twice(setting: "Setting", questions: "list[Question]") -> list[dict]:
    """The same with each prompt read for the answer, and again with the answer for the confidence."""
    from interp.answers import asked_for
    from interp.methods.base import Answered, Draws
    from interp.methods.default import read

    told = asked_for(setting, questions, free=False)
    read(
        setting,
        [Answered(q, one["answer"]) for q, one in zip(questions, told, strict=True) if one["answer"]],
        Draws(),
    )
    return told


def _question() -> "Question":
    from interp.records import Question

    return Question("peru", "What is the capital of Peru?", ("Lima",))


def _peak_of(options: Benchmarks, way: str) -> int:
    """Peak resident KiB that a way adds in a process of its own."""
    return _child(options, f"{way}()")["peak"]


def _child(options: Benchmarks, call: str) -> dict:
    code = f"from benchmarks.__main__ import *; from benchmarks import __main__ as b; b._report(b.{call[:-1]}"
    code += f"{', ' if not call.endswith('()') else ''}ckpt={options.ckpt!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _report(found: dict) -> None:
    print(json.dumps(found))


def _peak(*, forget: bool = False) -> int:
    """Peak resident KiB of this process (Linux); forget: since now, which is what it holds at present."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def _long_question() -> "Question":
    """One whose prompt has some 1,000 tokens."""
    from dataclasses import replace

    return replace(_question(), context=" ".join(WORDS * 30))


def training(options: Benchmarks) -> dict:
    """Loss and gradient of 8 triplets as one packed row, against their 16 sequences one by one."""
    import dataclasses
    from itertools import pairwise

    import torch

    from interp.models.checkpoints import loaded_checkpoint
    from training.loop import with_adapter
    from training.losses import advice_losses
    from training.objectives import AdviceObjective, read
    from training.recipes import ADVICE_RECIPES
    from training.triplets import Triplet

    checkpoint, recipe = loaded_checkpoint(options.ckpt), ADVICE_RECIPES["paper"]
    model = with_adapter(checkpoint, recipe, 0).train()
    objective = AdviceObjective(dataclasses.replace(checkpoint, model=model), checkpoint.shots, recipe)
    pairs = pairwise(_questions(Benchmarks(n=9)))
    triplets = [Triplet(q, q.answers[0], other.answers[0], "ScoreNumber") for q, other in pairs]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    found: dict[str, tuple[float, torch.Tensor]] = {}

    def stepped(name: str, parts: list[list[tuple]]) -> None:
        model.zero_grad()
        total = 0.0
        for part in parts:
            rows = [objective.row("ScoreNumber", 0, put) for put in part]
            said = [read(model, row["row"]) for row in rows]
            levels, answers = (torch.cat([getattr(one, name) for one in said]) for name in ("levels", "answers"))
            terms = advice_losses(levels[0::2], levels[1::2], answers[0::2], rows[0]["values"], recipe)
            loss = terms["total"].sum() / len(triplets)
            loss.backward()
            total += loss.item()
        found[name] = total, torch.cat([w.grad.flatten() for w in weights if w.grad is not None])

    both = [[(t.question, t.right), (t.question, t.wrong)] for t in triplets]
    ways = {
        "naive": lambda: stepped("naive", [[[right], [wrong]] for right, wrong in both]),
        "ours": lambda: stepped("ours", [[[put for pair in both for put in pair]]]),
    }
    seconds = timed(ways, options.repeats)
    (loss, gradient), (plain, plainly) = found["ours"], found["naive"]
    return {
        "ratio": seconds["naive"] / seconds["ours"],
        "triplets": len(triplets),
        "loss_difference": abs(loss - plain),
        "gradient_difference": ((gradient - plainly).norm() / plainly.norm()).item(),
    }


def _rollout_peak_ours(*, ckpt: str) -> dict:
    from interp.instruments.rollout import measured
    from interp.models.setting import Case

    setting, question = _setting(Benchmarks(ckpt=ckpt)), _question()
    measured(setting, [Case(question, "Lima")])
    before = _peak(forget=True)
    measured(setting, [Case(_long_question(), "Lima")])
    return {"peak": _peak() - before}


def _rollout_peak_textbook(*, ckpt: str) -> dict:
    import torch

    setting = _setting(Benchmarks(ckpt=ckpt))
    model = setting.checkpoint.model
    ids = torch.tensor([setting.prompter.transcript(_long_question(), "Lima").ids])
    with _eager(model), torch.no_grad():
        model(ids[:, :64], output_attentions=True)
        before = _peak(forget=True)
        product = torch.eye(ids.shape[1])
        for attention in model(ids, output_attentions=True, logits_to_keep=1).attentions:
            product = (attention[0].mean(0) + torch.eye(ids.shape[1])) / 2 @ product
    return {"peak": _peak() - before}


def _diagnose_peak(n: int, *, ckpt: str) -> dict:
    import tempfile

    from interp.options import composed
    from interp.pipelines.diagnose import diagnosed
    from interp.pipelines.diagnosis import Diagnose

    with tempfile.TemporaryDirectory() as folder:
        diagnosed(composed(Diagnose, ckpt=ckpt, n=4, candidates=0, out=Path(folder) / "first"), ("jsd",), "jsd")
        before, begin = _peak(forget=True), time.perf_counter()
        diagnosed(composed(Diagnose, ckpt=ckpt, n=n, candidates=0, out=Path(folder) / "run"), ("jsd",), "jsd")
        return {"peak": _peak(), "grown": _peak() - before, "seconds": time.perf_counter() - begin}


ALL = (readout, greedy, default, self_consistency, masking, flow, rollout, rollout_memory, attribution, memory)
ALL += (training, command_help)
MEASURED = {benchmark.__name__: benchmark for benchmark in ALL}


def main(options: Benchmarks) -> None:
    """Prints one JSON line for each benchmark."""
    for name in options.names or MEASURED:
        found = MEASURED[name](options)
        rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in found.items()}
        print(json.dumps({"benchmark": name, **rounded}), flush=True)
        gc.collect()


if __name__ == "__main__":
    main(tyro.cli(Benchmarks))

"""`python -m interp.cost`: what a run will take, instrument by instrument: tokens, FLOPs, memory, time."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from interp.commands import at_least, refuse_sets_of_nothing, run_as_command
from interp.diagnose import Diagnose
from interp.errors import UserError
from interp.formats import FORMATS, FormatName
from interp.questions import loaded_questions, refuse_mixed, shuffled
from interp.records import Question
from interp.runs import Record

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from interp.loads import Architecture, Lengths, Loads
    from interp.machine import Machine
    from interp.prompts import Prompter

GATED = {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32}
KNOWN: dict[str, dict[str, object]] = {
    "llama-3.1-8b": GATED | {"model_type": "llama", "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256},
    "mistral-7b": GATED | {"model_type": "mistral", "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32768},
    "gemma-2-9b": GATED
    | {"model_type": "gemma2", "num_hidden_layers": 42, "hidden_size": 3584, "num_attention_heads": 16}
    | {"num_key_value_heads": 8, "head_dim": 256, "vocab_size": 256000},
}
"""The sizes of the paper's models, whose configurations are on the hub only."""
SAMPLED = 64
"""Questions whose prompts are rendered for their lengths."""
START_SECONDS, READ_BYTES = 8.0, 1e9
"""What every command takes beside its model: imports, figures and tables; and how fast weights are read from a disk."""


@dataclass(frozen=True, kw_only=True)
class Cost(Diagnose):
    """Say what a run will take."""

    accuracy: float = 0.5
    """Share of the questions that the model is taken to answer right: so many more are asked."""
    n_evaluation: int = 200
    """Questions of `interp.evaluate` with its default method; 0: none."""
    architecture: str | None = None
    """llama-3.1-8b, mistral-7b, gemma-2-9b, or a config.json: sizes of a model that is not here. Prompts are then
    measured with the tokenizer of --ckpt."""
    accelerator: Literal["a100", "h100", "h200"] | None = None
    """Price the run on an accelerator that is not here, by its data sheet; by default this machine is timed."""
    accelerators: int = 1
    """Processes that share a run, each with an accelerator of its own."""
    out: Path | None = None
    """Also write the table and all that it assumes to OUT/cost.json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.accuracy <= 1:
            raise UserError(f"--accuracy {self.accuracy}: must lie in (0, 1]")
        at_least(0, "n_evaluation", self.n_evaluation)
        at_least(1, "accelerators", self.accelerators)
        if self.accelerators > 1 and not self.accelerator:
            raise UserError(f"--accelerators {self.accelerators}: name their kind by --accelerator")
        known = self.architecture in KNOWN or Path(self.architecture or "").is_file()
        if self.architecture is not None and not known:
            names = ", ".join(KNOWN)
            raise UserError(f"--architecture {self.architecture}: neither a configuration's file nor one of {names}")


@dataclass(frozen=True)
class Price:
    """What one part of a command takes."""

    command: str
    """The command."""
    part: str
    """The instrument, or what comes before it."""
    passes: int | float = 0.0
    """Forward passes."""
    tokens: int | float = 0.0
    """Tokens read."""
    flops: int | float = 0.0
    """FLOPs, backward passes included."""
    attention: int | float = 0.0
    """Bytes that attention holds at a time, cache excepted."""
    peak: int | float = 0.0
    """Bytes of weights and of the largest pass."""
    seconds: int | float = 0.0
    """Time."""


def part_price(command: str, part: str, loads: "Loads", of: "Architecture", on: "Machine") -> Price:
    """The price of some loads."""
    size = on.itemsize
    attention = [load.attention_bytes(of, size) + load.kept_bytes(of) for load in loads]
    here = [load.attention_bytes(of, size) + (0 if on.memory else load.kept_bytes(of)) for load in loads]
    working = [held + load.working_bytes(of, size) for held, load in zip(here, loads, strict=True)]
    return Price(
        command,
        part,
        sum(load.passes for load in loads),
        sum(load.tokens for load in loads),
        sum(sum(load.flops(of)) for load in loads),
        max(attention),
        of.parameters * size + max(working),
        sum(on.seconds(load, of) for load in loads),
    )


def lengths_of(prompter: "Prompter", questions: Sequence[Question], *, fillers: int, free: bool = False) -> "Lengths":
    """Token lengths of the prompts of these questions, each with its right answer."""
    import numpy as np

    from interp.jsd import hint, surface_variants
    from interp.loads import Lengths
    from interp.prompts import common_length

    opening = len(prompter.opening)
    rows: list[tuple[float, ...]] = []
    for question in questions:
        answer = question.response or question.answers[0]
        plain = prompter.transcript(question, answer)
        where = plain.positions("answer")
        looks = [len(prompter.transcript(question, v).positions("answer")) for v in surface_variants(answer)]
        hinted = prompter.transcript(question, answer, hint=hint(answer))
        reply = len(where) + 1
        if free:
            said = prompter.transcript(question, answer, level=prompter.confidence.levels[-1])
            reply = len(said.ids) - len(prompter.transcript(question, free=True).ids) + 1
        told = len(hinted.ids) - common_length([hinted.ids, plain.ids])
        tail = len(plain.ids) - where[-1] - 1
        rows.append((where[0] - opening, len(where), float(np.mean(looks)), tail, told, len(where) > 1, reply))
    question_, answer_, looks_, tail_, hint_, several, reply_ = (float(column) for column in np.mean(rows, axis=0))
    suffixes = prompter.level_suffixes(plain)
    firsts = {plain.spans[i]: i for i in reversed(range(opening))}
    return Lengths(
        opening,
        question_,
        answer_,
        looks_,
        tail_,
        len({suffix[:k] for suffix in suffixes for k in range(1, len(suffix) + 1)}),
        hint_,
        tuple(float(opening - first) for first in firsts.values()),
        several,
        1 + (bool(questions[0].relation) and not questions[0].choices),
        fillers,
        reply_,
        min(len(question.choices) for question in questions),
    )


Plan = dict[str, dict[str, "Loads"]]
"""By command and part, what each of the processes asks of the model."""


def planned(options: Cost, lengths: "dict[FormatName, Lengths]", there: int) -> Plan:
    """A diagnosis and an evaluation. there: questions in the data."""
    from interp import loads

    own, each = lengths[options.format], options.accelerators
    parts = loads.diagnosis(options, own, there, accuracy=options.accuracy, processes=each)
    plan = {"interp.diagnose": {name: load for name, load in parts.items() if name not in options.leave_out}}
    if evaluated := min(options.n_evaluation, there):
        passes = loads.evaluation(evaluated / each, own, options.batch_tokens)
        plan["interp.evaluate"] = {"default": passes * options.shot_sets}
    return plan


def prices(plan: "dict[str, dict[str, Loads]]", of: "Architecture", on: "Machine") -> Iterator[Price]:
    """The price of every part of every command, its start included."""
    weights = of.parameters * on.itemsize
    for command, parts in plan.items():
        yield Price(command, "start", peak=weights, seconds=START_SECONDS + weights / READ_BYTES)
        for part, loads in parts.items():
            if loads:
                yield part_price(command, part, loads, of, on)


def sizes(config: "PretrainedConfig", *, remote_code: bool = False) -> "Architecture":
    """The sizes in a configuration, its weights counted without making any."""
    import torch
    from transformers import AutoModelForCausalLM

    from interp.loads import Architecture

    text = config.get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=remote_code)
    tables = {id(table.weight) for table in (model.get_input_embeddings(), model.get_output_embeddings())}
    heads = text.num_attention_heads
    return Architecture(
        parameters=sum(weight.numel() for weight in model.parameters()),
        matrices=sum(w.numel() for w in model.parameters() if w.ndim > 1 and id(w) not in tables),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
    )


def configuration(options: Cost) -> "PretrainedConfig":
    """Of the architecture that is named, else of the checkpoint; weights are not loaded."""
    from transformers import AutoConfig

    from interp.checkpoints import source_of

    if options.architecture in KNOWN:
        numbers = dict(KNOWN[options.architecture])
        return AutoConfig.for_model(str(numbers.pop("model_type")), **numbers)
    source = source_of(options.ckpt, remote_code=options.trust_remote_code)
    where = options.architecture or source.model
    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(
            where, revision=source.revision, trust_remote_code=options.trust_remote_code
        )
        return found
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{where}: no configuration can be read ({' '.join(str(error).split())[:200]})") from error


def measured_lengths(
    options: Cost, questions: Sequence[Question], formats: Sequence[FormatName]
) -> "dict[FormatName, Lengths]":
    """By format, with the checkpoint's own tokenizer."""
    from interp.checkpoints import loaded_tokenizer
    from interp.prompts import Prompter, shot_set

    tokenizer, preset = loaded_tokenizer(options.ckpt, remote_code=options.trust_remote_code)
    shots = (0 if options.architecture else preset) if options.shots is None else options.shots
    refuse_sets_of_nothing(options.shot_sets, shots)
    choices, own = bool(questions[0].choices), tokenizer.pad_token_id
    taken = {None, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    found = {}
    for name in dict.fromkeys(formats):
        examples = shot_set(shots, FORMATS[name], seed=0, choices=choices)
        prompter = Prompter(tokenizer, FORMATS[name], examples, choices, options.template, options.template_arguments)
        found[name] = lengths_of(prompter, questions[:SAMPLED], fillers=2 + (own not in taken), free=options.free)
    return found


def cost_of(options: Cost) -> Record:
    """Every part with its price, and all that it rests on."""
    return priced(options, (options.format,), lambda lengths, there, of, family: planned(options, lengths, there))


def priced(
    options: Cost,
    formats: Sequence[FormatName],
    plan_of: "Callable[[dict[FormatName, Lengths], int, Architecture, str], Plan]",
) -> Record:
    """Every part of a plan with its price, and all that it rests on.

    plan_of: what to price, from the prompts' lengths in these formats, the number of questions, the architecture and
    the model's family."""
    questions = shuffled(loaded_questions(options.data), options.seed)
    refuse_mixed(questions, options.data)
    lengths = measured_lengths(options, questions, formats)
    from interp import machine

    config = configuration(options)
    of = sizes(config, remote_code=options.trust_remote_code)
    if options.accelerator:
        on = machine.named(options.accelerator, of)
    else:
        on = machine.calibrated(config, of, device=options.device, dtype=options.dtype)
    plan = plan_of(lengths, len(questions), of, config.model_type)
    return {
        "parts": [asdict(price) for price in prices(plan, of, on)],
        "machine": asdict(on) | {"processes": options.accelerators},
        "architecture": asdict(of),
        "lengths": {name: asdict(one) for name, one in lengths.items()},
        "accuracy": options.accuracy,
    }


def shown(found: Record, out: Path | None) -> None:
    """Prints the table and, where it is wanted, writes it to a directory."""
    from figures.cost import printed_cost

    printed_cost(found)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        path = out / "cost.json"
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(f"all that this rests on: {path}")


if __name__ == "__main__":
    run_as_command(Cost, lambda options: shown(cost_of(options), options.out), description=__doc__)

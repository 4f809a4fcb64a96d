"""The training loop: transformers' Trainer over packed rows, with a learning curve of answer-dependence."""

import dataclasses
import json
import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from interp.checkpoints import Checkpoint
from interp.formats import FORMATS, FormatName
from interp.jsd import NEAR_ZERO
from interp.setting import Setting, prepared
from training.losses import advice_losses, expected, jensen_shannon
from training.packing import PackedRow, packed_row
from training.triplets import Triplet

if TYPE_CHECKING:
    from training.advice import Advice, MiniBatch, Weights

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj"]
"""The paper's LoRA targets: query, key, value and output."""


class Rows:
    """Mini-batches as packed rows, made when they are asked for."""

    def __init__(self, checkpoint: Checkpoint, batches: "Sequence[MiniBatch]", shots: int) -> None:
        self._batches, self._checkpoint, self._shots = batches, checkpoint, shots
        self.setting = cache(self._setting)

    def _setting(self, form: FormatName, shot_seed: int) -> Setting:
        return prepared(self._checkpoint, FORMATS[form], shots=self._shots, shot_seed=shot_seed, read_opening=False)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> dict[str, object]:
        batch = self._batches[index]
        return self.row(batch.triplets, batch.shot_seed)

    def row(self, triplets: Sequence[Triplet], shot_seed: int) -> dict[str, object]:
        """Right and wrong answers of triplets of one format, in turn, as a packed row with the levels' values."""
        setting = self.setting(triplets[0].format, shot_seed)
        prompter = setting.prompter
        transcripts = [prompter.transcript(t.question, answer) for t in triplets for answer in (t.right, t.wrong)]
        values = torch.tensor(prompter.confidence.values, device=setting.prefix.model.device)
        return {"row": packed_row(setting, transcripts), "values": values}


def distributions(model: torch.nn.Module, row: PackedRow) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of the levels after the right and after the wrong answers, and of the right answers."""
    logits = model(**row.inputs, use_cache=False).logits[0].float()
    levels, answers = row.level_logprobs(logits), row.answer_logprobs(logits)
    return levels[0::2], levels[1::2], answers[0::2]


class AdviceTrainer(Trainer):
    """ADVICE's objective on mini-batches that come ready-made, one at a time and in their order."""

    def __init__(self, *args: object, weights: "Weights", **options: object) -> None:
        super().__init__(*args, **options)
        self.weights = weights
        self.terms: list[dict[str, float]] = []

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch: object = None
    ) -> Tensor:
        """The mean total over the mini-batch's triplets."""
        right, wrong, answers = distributions(model, inputs["row"])
        terms = advice_losses(right, wrong, answers, inputs["values"], self.weights)
        self.terms.append({name: term.mean().item() for name, term in terms.items()})
        return terms["total"].mean()

    def _get_train_sampler(self, train_dataset: object = None) -> SequentialSampler:
        return SequentialSampler(train_dataset or self.train_dataset)


@torch.no_grad()
def dependence(model: torch.nn.Module, rows: Rows, triplets: Sequence[Triplet], size: int) -> dict[str, float]:
    """How the confidence depends on the answer, over held-out triplets: one point of the learning curve."""
    model.eval()
    columns: dict[str, list[float]] = {"right": [], "wrong": [], "jsd": []}
    for form in sorted({triplet.format for triplet in triplets}):
        of_form = [triplet for triplet in triplets if triplet.format == form]
        for start in range(0, len(of_form), size):
            made = rows.row(of_form[start : start + size], 0)
            right, wrong, _ = distributions(model, made["row"])
            columns["right"] += expected(right, made["values"]).tolist()
            columns["wrong"] += expected(wrong, made["values"]).tolist()
            columns["jsd"] += jensen_shannon(right, wrong).tolist()
    model.train()
    count = len(columns["jsd"])
    gaps = [a - b for a, b in zip(columns["right"], columns["wrong"], strict=True)]
    return {
        "right": sum(columns["right"]) / count,
        "wrong": sum(columns["wrong"]) / count,
        "direction_positive": sum(gap > 0 for gap in gaps) / count,
        "jsd": sorted(columns["jsd"])[count // 2],
        "near_zero_share": sum(value <= NEAR_ZERO for value in columns["jsd"]) / count,
        "triplets": count,
    }


class LearningCurve(TrainerCallback):
    """Measures `dependence` before the first update and every so many, and appends it to curve.jsonl."""

    def __init__(self, rows: Rows, held_out: Sequence[Triplet], options: "Advice") -> None:
        self.rows, self.held_out, self.options = rows, held_out, options

    def on_train_begin(self, args, state, control, model=None, **_) -> None:
        self._measured(model, state.global_step)

    def on_step_end(self, args, state, control, model=None, **_) -> None:
        if state.global_step % self.options.every == 0 or state.global_step == state.max_steps:
            self._measured(model, state.global_step)

    def _measured(self, model: torch.nn.Module, step: int) -> None:
        point = {"update": step, **dependence(model, self.rows, self.held_out, self.options.batch)}
        with (self.options.out / "curve.jsonl").open("a") as stream:
            stream.write(json.dumps(point) + "\n")
        print({k: round(v, 4) for k, v in point.items()}, flush=True)


def train_adapter(
    checkpoint: Checkpoint, batches: "Sequence[MiniBatch]", held_out: Sequence[Triplet], options: "Advice"
) -> None:
    """Puts a LoRA adapter on the checkpoint's model, trains it and saves it into options.out."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(options.seed)
    config = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    model = get_peft_model(checkpoint.model, config)
    shots = checkpoint.shots if options.shots is None else options.shots
    rows = Rows(dataclasses.replace(checkpoint, model=model), batches, shots)
    updates = math.ceil(len(batches) / options.accumulation)
    arguments = TrainingArguments(
        output_dir=str(options.out / "trainer"),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=options.accumulation,
        max_steps=min(updates, options.updates or updates),
        learning_rate=options.lr,
        lr_scheduler_type="linear",
        warmup_steps=0.05,
        weight_decay=0.0,
        logging_steps=5,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        seed=options.seed,
        use_cpu=model.device.type == "cpu",
    )
    trainer = AdviceTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=lambda items: items[0],
        callbacks=[LearningCurve(rows, held_out, options)],
        weights=options.weights,
    )
    trainer.train()
    model.save_pretrained(options.out)
    (options.out / "terms.json").write_text(json.dumps(trainer.terms))

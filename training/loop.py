"""The training loop: transformers' Trainer over ready-made mini-batches, with a learning curve and a way back."""

import contextlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerControl, TrainerState
from transformers.trainer_pt_utils import safe_globals

from interp.errors import UserError, ran_out_of_memory
from interp.models.adapters import WEIGHTS, quiet_peft
from interp.models.checkpoints import Checkpoint
from interp.plain import reason
from interp.run.dryrun import DryRun
from interp.run.processes import Processes
from interp.run.runs import Record, Run, chunks
from training.batches import AnyExample, MiniBatch
from training.objectives import Inputs, Objective
from training.recipes import Recipe, TrainingOptions

SECOND = "second"
"""peft's name of the adapter that is trained where the model has one already."""
STATES = "trainer"
"""Where in a run's directory the states of an unfinished training are."""
SHOWN = ("right", "wrong", "direction_positive", "jsd", "near_zero_share", "outside", "answer_rank", "auroc", "ece")
"""What of a point of the learning curve is printed."""
TRIED = 3
"""Updates of a dry run: the first, which holds what happens only once, and two that give the rate."""


class ObjectiveTrainer(Trainer, Generic[AnyExample]):
    """An objective on mini-batches that come ready-made, one at a time and in their order."""

    model: PeftModel
    train_dataset: Sequence[MiniBatch[AnyExample]]

    def __init__(
        self,
        objective: Objective[AnyExample],
        batches: Sequence[MiniBatch[AnyExample]],
        run: Run,
        processes: Processes,
        arguments: TrainingArguments,
    ) -> None:
        super().__init__(
            model=objective.checkpoint.model,
            args=arguments,
            train_dataset=batches,
            data_collator=lambda items: {"batch": items[0]},
        )
        self.objective: Objective[AnyExample] = objective
        self.run, self.processes, self.states = run, processes, run.folder / STATES
        self.model_accepts_loss_kwargs = False  # so that the loss is averaged over accumulated mini-batches
        self.parts = 1
        """In how many rows a mini-batch is read: more than one where memory ran out."""
        self.terms: list[tuple[float, dict[str, float]]] = []
        """Of this update so far: the share of a mini-batch, and the mean of each term over it."""
        self.asked: list[str] = []

    def training_step(
        self, model: torch.nn.Module, inputs: Inputs, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The gradient of one mini-batch, in halves where memory runs out: their weighted sum is the same.

        Errors: UserError where a single example does not fit, or one of several processes has too little."""
        trained = [p for p in model.parameters() if p.requires_grad]
        before = [None if p.grad is None else p.grad.clone() for p in trained]
        known = len(self.terms), len(self.asked)
        batch = inputs["batch"]
        while True:
            try:
                loss = torch.zeros((), device=self.args.device)
                for part in chunks(batch.examples, -(-len(batch.examples) // self.parts)):
                    one = {"batch": replace(batch, examples=part), "share": len(part) / len(batch.examples)}
                    loss += super().training_step(model, one, num_items_in_batch)
                return loss
            except (MemoryError, RuntimeError) as error:
                if not ran_out_of_memory(error):
                    raise
            if self.parts >= len(batch.examples) or self.processes.count > 1:
                raise self.stopped("memory ran out", self.asked, "take a smaller --batch")
            self.parts *= 2
            del self.terms[known[0] :], self.asked[known[1] :]
            for parameter, gradient in zip(trained, before, strict=True):
                parameter.grad = None if gradient is None else gradient.clone()
            print(f"memory ran out: each mini-batch in {self.parts} parts from here on", file=sys.stderr)

    def compute_loss(
        self, model: torch.nn.Module, inputs: Inputs, return_outputs: bool = False, num_items_in_batch: object = None
    ) -> Tensor:
        """The mean total over the part's examples, times its share. Errors: UserError where it is not finite."""
        ids = [example.question.id for example in inputs["batch"].examples]
        self.asked += ids
        terms = self.objective.terms(model, self.objective.inputs(inputs["batch"]))
        if not terms["total"].isfinite().all():
            finite = terms["total"].isfinite().tolist()
            lost = [one for one, is_finite in zip(ids, finite, strict=True) if not is_finite]
            raise self.stopped("the loss is not a finite number", lost)
        self.terms.append((inputs["share"], {name: term.mean().item() for name, term in terms.items()}))
        total: Tensor = terms["total"].mean() * inputs["share"]
        return total

    def stopped(self, what: str, ids: Sequence[str], remedy: str = "try a lower --lr") -> UserError:
        """The error that ends a run which cannot go on: nothing of this update is kept."""
        kept = last_state(self.states)
        where = f"the state of update {kept.name.rpartition('-')[2]} is kept in {kept}" if kept else "nothing is kept"
        return UserError(f"update {self.state.global_step + 1}: {what}, at {', '.join(ids)}; {where}; {remedy}")

    def _get_train_sampler(self, train_dataset: object = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        with told_where(self.states):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: object = None) -> None:
        """Only what is trained: an adapter below it stays as it is."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_weights(self.model), folder / WEIGHTS, {"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        weights = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        set_peft_model_state_dict(self.model, weights, trained_adapter(self.model))


@contextlib.contextmanager
def told_where(folder: Path) -> Iterator[None]:
    """Says in one sentence that a state could not be written: the libraries have an error of their own each."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        said = f"{folder}: could not be written ({reason(error)}); the states before are kept there"
        raise UserError(said) from error


def last_state(folder: Path) -> Path | None:
    """The last whole state of an unfinished training; one that was cut off while it was written is removed."""
    numbered = {path.name.removeprefix("checkpoint-"): path for path in folder.glob("checkpoint-*")}
    found = [numbered[number] for number in sorted(filter(str.isdecimal, numbered), key=int)]
    while found:
        try:
            json.loads((found[-1] / "trainer_state.json").read_text())  # written last
            return found[-1]
        except (OSError, ValueError, RecursionError):
            shutil.rmtree(found.pop())
    return None


def refuse_unreadable(state: Path) -> None:
    """Errors: UserError where a file of a state is damaged, or a pickle asks for more than tensors and numbers."""
    try:
        TrainerState.load_from_json(str(state / "trainer_state.json"))
        load_file(state / WEIGHTS)
        with safe_globals():
            for file in sorted(state.glob("*.pt*")):
                torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each library has errors of its own
        said = f"{state}: cannot be read ({reason(error)}); remove it, and training goes on from the one before"
        raise UserError(said) from error


class Watch(TrainerCallback, Generic[AnyExample]):
    """Puts every update's loss and, every so many, a point of the learning curve on record; refuses lost gradients."""

    def __init__(
        self, trainer: ObjectiveTrainer[AnyExample], held_out: Sequence[AnyExample], every: int, processes: Processes
    ) -> None:
        self.trainer, self.held_out, self.every, self.processes = trainer, held_out, every, processes

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """The point before the first update; a state that a dry run left is at no point."""
        if state.global_step % self.every == 0:
            self._measured(state.global_step)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Errors: UserError where a gradient is not finite, before it reaches the weights."""
        if not all(p.grad.isfinite().all() for p in self.trainer.model.parameters() if p.grad is not None):
            raise self.trainer.stopped("a gradient is not a finite number", self.trainer.asked)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """The update's terms and, every so many, a point."""
        terms = self.trainer.terms
        whole = sum(share for share, _ in terms)
        names = terms[0][1]
        means = self.processes.mean({name: sum(share * one[name] for share, one in terms) / whole for name in names})
        self._append("update", state.global_step, means)
        self.trainer.terms, self.trainer.asked = [], []
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._measured(state.global_step)

    def _append(self, measure: str, update: int, found: Record) -> None:
        run = self.trainer.run
        if self.processes.first and (measure, 0, str(update)) not in run.done:
            run.append({"measure": measure, "set": 0, "id": str(update), **found})

    def _measured(self, update: int) -> None:
        if not self.processes.first or ("curve", 0, str(update)) in self.trainer.run.done:
            return
        dry = self.trainer.run.dry
        timer = dry.timer(self.trainer.run) if dry else None
        model = self.trainer.model
        model.eval()
        point = self.trainer.objective.point(model, self.held_out)
        model.train()
        for form, found in point.items():
            values = {name: one.value for name, one in found.items() if one.value is not None}
            self.trainer.log({f"held_out_{form}_{name}": value for name, value in values.items()})
            shown = ", ".join(f"{k.replace('_', ' ')} {values[k]:.3f}" for k in SHOWN if k in values)
            print(f"update {update}, held out, {form}: {shown}", flush=True)
        told = {form: {name: one.as_record() for name, one in found.items()} for form, found in point.items()}
        self._append("curve", update, {"formats": told})
        if dry and timer:
            dry.named("learning curve").chunks.append(timer([str(update)]))


class Trial(TrainerCallback):
    """Times updates, and stops after a few; the state that is saved then is one that training goes on from."""

    def __init__(self, dry: DryRun, run: Run) -> None:
        self.dry, self.run, self.tried = dry, run, 0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """An update begins."""
        self.ended = self.dry.timer(self.run)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """It has ended."""
        self.dry.named("updates").chunks.append(self.ended([str(state.global_step)]))
        self.tried += 1
        if self.tried == TRIED:
            control.should_save = control.should_training_stop = True


class Bar(ProgressCallback):
    """The progress bar alone: what it would print is on record."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """Nothing."""


def with_adapter(checkpoint: Checkpoint, recipe: Recipe, seed: int) -> PeftModel:
    """The checkpoint's model under a fresh LoRA adapter, whose weights are float32 whatever the model's are.

    An adapter that the model has already stays on it as it is; only the fresh one has gradients. Errors: UserError
    where the model has none of the projections."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.targets),
        layers_to_transform=_last(checkpoint.model.config.get_text_config().num_hidden_layers, recipe.last_layers),
        task_type="CAUSAL_LM",
    )
    try:
        with quiet_peft():
            return _adapted(checkpoint.model, config)
    except ValueError as error:
        modules = checkpoint.model.named_modules()
        names = sorted({name.rpartition(".")[2] for name, module in modules if hasattr(module, "in_features")})
        names = [name for name in names if name not in ("default", "base_layer")]  # those of an adapter below
        known = f"has the projections {', '.join(names)}" if names else reason(error)
        raise UserError(f"--targets {' '.join(recipe.targets)}: {checkpoint.name} {known}") from error


def _adapted(model: PreTrainedModel | PeftModel, config: LoraConfig) -> PeftModel:
    if not isinstance(model, PeftModel):
        return get_peft_model(model, config)
    (below,) = model.peft_config
    model.add_adapter(SECOND, config)
    tuner: Any = model.base_model
    tuner.set_adapter([below, SECOND], inference_mode=True)  # the last is the one that is trained
    model.set_requires_grad(SECOND)
    for module in model.modules():
        if isinstance(module, LoraLayer) and below in module.lora_dropout:
            module.lora_dropout[below] = torch.nn.Identity()
    return model


def _last(layers: int, wanted: int | None) -> list[int] | None:
    return None if wanted is None or wanted >= layers else list(range(layers - wanted, layers))


def trained_adapter(model: PeftModel) -> str:
    """peft's name of the adapter that is trained: where there are two, the second."""
    return str(model.active_adapters[-1])


def trained_weights(model: PeftModel) -> dict[str, Tensor]:
    """The weights of the adapter that is trained, by the names that they have in a file."""
    found = get_peft_model_state_dict(model, adapter_name=trained_adapter(model), save_embedding_layers=False)
    return {name: weight.contiguous() for name, weight in found.items()}


def forget_states(folder: Path) -> None:
    """Removes what a finished run in `folder` no longer needs to go on."""
    shutil.rmtree(folder / STATES, ignore_errors=True)


def train(
    objective: Objective[AnyExample],
    batches: Sequence[MiniBatch[AnyExample]],
    held_out: Sequence[AnyExample],
    recipe: Recipe,
    options: TrainingOptions,
    run: Run,
    processes: Processes,
) -> None:
    """Trains the adapter on the objective's model; takes up an unfinished run where it last saved its state.

    The states are left for `forget_states`, to be called when the adapter is saved."""
    model, states = objective.checkpoint.model, run.folder / STATES
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.folder / "tensorboard")
    arguments = TrainingArguments(
        output_dir=str(states),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=recipe.accumulation,
        max_steps=-(-len(batches) // (recipe.accumulation * processes.count)),
        learning_rate=recipe.lr,
        lr_scheduler_type="linear",
        warmup_steps=0.05,
        weight_decay=0.0,
        logging_steps=5,
        save_strategy="steps",
        save_steps=options.recipe.every,
        save_total_limit=2,
        report_to=list(options.recipe.report_to) if processes.first else [],
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        seed=options.common.seed,
        bf16=model.dtype == torch.bfloat16,
        use_cpu=model.device.type == "cpu",
    )
    arguments._n_gpu = 1  # of several GPUs in one process Trainer would feed each a part of a row that is one
    trainer = ObjectiveTrainer(objective, batches, run, processes, arguments)
    for shown in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(shown)
    if processes.first:
        trainer.add_callback(Bar())
        last_state(states)  # which removes what was cut off
    processes.wait()
    begun = last_state(states)
    if run.dry:
        trainer.add_callback(Trial(run.dry, run))
        updates, curve = run.dry.named("updates"), run.dry.named("learning curve")
        updates.kept = int(begun.name.rpartition("-")[2]) if begun else 0
        updates.whole = arguments.max_steps
        curve.kept = sum(measure == "curve" for measure, *_ in run.done)
        curve.whole = 1 + math.ceil(arguments.max_steps / options.recipe.every)
    trainer.add_callback(Watch(trainer, held_out, options.recipe.every, processes))
    if begun:
        refuse_unreadable(begun)
    trainer.train(resume_from_checkpoint=str(begun) if begun else None)
    if run.dry and (left := last_state(states)):
        size = sum(file.stat().st_size for file in left.rglob("*") if file.is_file())
        run.dry.disk["states, until it is trained"] = size * min(3, 1 + arguments.max_steps // options.recipe.every)
        run.dry.disk["the adapter"] = 2 * sum(p.numel() for p in model.parameters() if p.requires_grad)

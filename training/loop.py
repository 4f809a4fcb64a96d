"""The training loop: transformers' Trainer over ready-made mini-batches, with a learning curve and saved states.

A run that was cut off is continued from its last saved state. This module knows no formula of an objective and no
command's options beyond `TrainingOptions`."""

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
SHOWN = (
    *("right", "wrong", "direction_positive", "jsd", "near_zero_share", "outside", "answer_rank", "auroc", "ece"),
    *("cross_entropy", "off_target"),
)
"""The estimates of a point of the learning curve that are printed."""
TRIED = 3
"""Updates of a dry run: the first, which includes one-time costs, and two that give the rate."""


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
            data_collator=lambda items: {"batch": items[0]},  # Trainer's own batch size is 1
        )
        self.objective: Objective[AnyExample] = objective
        self.run, self.processes, self.states = run, processes, run.folder / STATES
        self.model_accepts_loss_kwargs = False  # so that the loss is averaged over accumulated mini-batches
        self.parts = 1
        """The number of rows in which a mini-batch is read: more than one after memory ran out."""
        self.terms: list[tuple[float, dict[str, float]]] = []
        """For each row of this update so far: its share of a mini-batch, and the mean of each term over it."""
        self.asked: list[str] = []
        """Ids of the questions in this update so far."""

    def training_step(
        self, model: torch.nn.Module, inputs: Inputs, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Adds the gradient of one mini-batch, read in more and smaller rows where memory runs out.

        The gradient is the same: each row's loss is weighted by its share of the mini-batch.

        Args:
            model: The model that is trained.
            inputs: `batch`, a `MiniBatch`.
            num_items_in_batch: Trainer's own, passed on.

        Returns:
            The mini-batch's loss, a scalar.

        Raises:
            UserError: where a single example does not fit in memory, or memory runs out in one of several processes.
        """
        trained = [p for p in model.parameters() if p.requires_grad]
        # what earlier mini-batches of this update have added; restored before the mini-batch is read once more
        gradients = [None if p.grad is None else p.grad.clone() for p in trained]
        lengths = len(self.terms), len(self.asked)
        batch = inputs["batch"]
        while True:
            try:
                loss = torch.zeros((), device=self.args.device)
                for part in chunks(batch.examples, -(-len(batch.examples) // self.parts)):
                    part_inputs = {"batch": replace(batch, examples=part), "share": len(part) / len(batch.examples)}
                    loss += super().training_step(model, part_inputs, num_items_in_batch)
                return loss
            except (MemoryError, RuntimeError) as error:
                if not ran_out_of_memory(error):
                    raise
            if self.parts >= len(batch.examples) or self.processes.count > 1:
                raise self.stopped("memory ran out", self.asked, "take a smaller --batch")
            self.parts *= 2
            del self.terms[lengths[0] :], self.asked[lengths[1] :]
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = None if gradient is None else gradient.clone()
            print(f"memory ran out: each mini-batch in {self.parts} parts from here on", file=sys.stderr)

    def compute_loss(
        self, model: torch.nn.Module, inputs: Inputs, return_outputs: bool = False, num_items_in_batch: object = None
    ) -> Tensor:
        """The mean of `total` over the part's examples, times the part's share of its mini-batch.

        Args:
            model: The model that is trained.
            inputs: `batch`, the examples of one row, and `share`, the row's share of its mini-batch.
            return_outputs: Not used.
            num_items_in_batch: Not used.

        Returns:
            A scalar.

        Raises:
            UserError: where an example's loss is not finite.
        """
        ids = [example.question.id for example in inputs["batch"].examples]
        self.asked += ids
        terms = self.objective.terms(model, self.objective.inputs(inputs["batch"]))  # by name, [examples] each
        if not terms["total"].isfinite().all():
            finite = terms["total"].isfinite().tolist()
            lost = [question_id for question_id, is_finite in zip(ids, finite, strict=True) if not is_finite]
            raise self.stopped("the loss is not a finite number", lost)
        self.terms.append((inputs["share"], {name: term.mean().item() for name, term in terms.items()}))
        total: Tensor = terms["total"].mean() * inputs["share"]
        return total

    def stopped(self, what: str, ids: Sequence[str], remedy: str = "try a lower --lr") -> UserError:
        """The error that ends a run which cannot go on; nothing of this update is kept.

        Args:
            what: What happened.
            ids: Ids of the questions at which it happened.
            remedy: What the user can try.
        """
        kept = last_state(self.states)
        where = f"the state of update {kept.name.rpartition('-')[2]} is kept in {kept}" if kept else "nothing is kept"
        return UserError(f"update {self.state.global_step + 1}: {what}, at {', '.join(ids)}; {where}; {remedy}")

    def _get_train_sampler(self, train_dataset: object = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        with told_where(self.states):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: object = None) -> None:
        """Saves the trained adapter alone: another adapter below it does not change."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_weights(self.model), folder / WEIGHTS, {"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        weights = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        set_peft_model_state_dict(self.model, weights, trained_adapter(self.model))


@contextlib.contextmanager
def told_where(folder: Path) -> Iterator[None]:
    """Turns the libraries' various errors into one that says in a sentence that a state could not be written.

    Raises:
        UserError: where a file in `folder` could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        message = f"{folder}: could not be written ({reason(error)}); the states before are kept there"
        raise UserError(message) from error


def last_state(folder: Path) -> Path | None:
    """The last complete state of an unfinished training, None without one; later, incomplete ones are removed."""
    numbered = {path.name.removeprefix("checkpoint-"): path for path in folder.glob("checkpoint-*")}
    states = [numbered[number] for number in sorted(filter(str.isdecimal, numbered), key=int)]
    while states:
        try:
            json.loads((states[-1] / "trainer_state.json").read_text())  # written last
            return states[-1]
        except (OSError, ValueError, RecursionError):
            shutil.rmtree(states.pop())
    return None


def refuse_unreadable(state: Path) -> None:
    """Reads every file of a state and refuses a damaged one before training starts.

    Raises:
        UserError: where a file is damaged, or a pickle asks for more than tensors and numbers.
    """
    try:
        TrainerState.load_from_json(str(state / "trainer_state.json"))
        load_file(state / WEIGHTS)
        with safe_globals():
            for file in sorted(state.glob("*.pt*")):
                torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each library has errors of its own
        message = f"{state}: cannot be read ({reason(error)}); remove it, and training goes on from the one before"
        raise UserError(message) from error


class Watch(TrainerCallback, Generic[AnyExample]):
    """Records every update's terms and the points of the learning curve; refuses gradients that are not finite."""

    def __init__(
        self, trainer: ObjectiveTrainer[AnyExample], held_out: Sequence[AnyExample], every: int, processes: Processes
    ) -> None:
        self.trainer, self.held_out, self.every, self.processes = trainer, held_out, every, processes

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """The point before the first update; a state that a dry run saved may lie between two points."""
        if state.global_step % self.every == 0:
            self._measured(state.global_step)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Checks the gradients before they reach the weights.

        Raises:
            UserError: where a gradient is not finite.
        """
        if not all(p.grad.isfinite().all() for p in self.trainer.model.parameters() if p.grad is not None):
            raise self.trainer.stopped("a gradient is not a finite number", self.trainer.asked)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Records the update's terms and, every `every` updates and at the end, a point."""
        terms = self.trainer.terms
        total_share = sum(share for share, _ in terms)
        names = terms[0][1]
        means = self.processes.mean(
            {name: sum(share * values[name] for share, values in terms) / total_share for name in names}
        )
        self._append("update", state.global_step, means)
        self.trainer.terms, self.trainer.asked = [], []
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._measured(state.global_step)

    def _append(self, measure: str, update: int, fields: Record) -> None:
        run = self.trainer.run
        if self.processes.first and (measure, 0, str(update)) not in run.done:
            run.append({"measure": measure, "set": 0, "id": str(update), **fields})

    def _measured(self, update: int) -> None:
        if not self.processes.first or ("curve", 0, str(update)) in self.trainer.run.done:
            return
        dry = self.trainer.run.dry
        timer = dry.timer(self.trainer.run) if dry else None
        model = self.trainer.model
        model.eval()
        point = self.trainer.objective.point(model, self.held_out)
        model.train()
        for form, estimates in point.items():
            values = {name: estimate.value for name, estimate in estimates.items() if estimate.value is not None}
            self.trainer.log({f"held_out_{form}_{name}": value for name, value in values.items()})
            shown = ", ".join(f"{k.replace('_', ' ')} {values[k]:.3f}" for k in SHOWN if k in values)
            print(f"update {update}, held out, {form}: {shown}", flush=True)
        formats = {
            form: {name: estimate.as_record() for name, estimate in estimates.items()}
            for form, estimates in point.items()
        }
        self._append("curve", update, {"formats": formats})
        if dry and timer:
            dry.named("learning curve").chunks.append(timer([str(update)]))


class Trial(TrainerCallback):
    """Times the updates of a dry run and stops after `TRIED`; training can go on from the state that is then saved."""

    def __init__(self, dry: DryRun, run: Run) -> None:
        self.dry, self.run, self.tried = dry, run, 0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Starts the clock."""
        self.ended = self.dry.timer(self.run)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Records the update's time, and stops after the last."""
        self.dry.named("updates").chunks.append(self.ended([str(state.global_step)]))
        self.tried += 1
        if self.tried == TRIED:
            control.should_save = control.should_training_stop = True


class Bar(ProgressCallback):
    """The progress bar alone: what it would print is in the records."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """Prints nothing."""


def with_adapter(checkpoint: Checkpoint, recipe: Recipe, seed: int) -> PeftModel:
    """The checkpoint's model under a fresh LoRA adapter, whose weights are float32 whatever the model's are.

    An adapter that the model already carries stays active and unchanged; only the fresh one has gradients.

    Args:
        checkpoint: The checkpoint, whose model is changed in place.
        recipe: Rank, scale, dropout, projections and layers of the adapter.
        seed: Decides the adapter's first weights.

    Returns:
        The model with the adapter.

    Raises:
        UserError: where the model has none of the projections.
    """
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
    # both are active, so that the fresh adapter learns on top of the one below, which has neither gradient nor dropout
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
    weights = get_peft_model_state_dict(model, adapter_name=trained_adapter(model), save_embedding_layers=False)
    return {name: weight.contiguous() for name, weight in weights.items()}


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
    """Trains the adapter on the objective's model, in place; an unfinished run is continued from its last state.

    The states are kept; call `forget_states` once the adapter is saved.

    Args:
        objective: The objective, whose model carries the adapter.
        batches: Mini-batches of all processes, in the order in which they are taken.
        held_out: Examples on which the learning curve is measured.
        recipe: The hyperparameters, all decided.
        options: Say how often states are saved and points measured, and where Trainer reports to.
        run: Where updates and points are recorded; a dry run stops after `TRIED` updates.
        processes: The processes that train together, or the one.

    Raises:
        UserError: where a state is damaged or cannot be written, memory runs out, or a number is not finite.
    """
    model, states = objective.checkpoint.model, run.folder / STATES
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.folder / "tensorboard")
    updates = -(-len(batches) // (recipe.accumulation * processes.count))
    arguments = _arguments(model, updates, recipe, options, states, processes)
    trainer = ObjectiveTrainer(objective, batches, run, processes, arguments)
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    if processes.first:
        trainer.add_callback(Bar())
        last_state(states)  # removes incomplete states before the other processes look for the last one
    processes.wait()
    unfinished = last_state(states)
    if run.dry:
        trainer.add_callback(Trial(run.dry, run))
        update_part, curve_part = run.dry.named("updates"), run.dry.named("learning curve")
        update_part.kept = int(unfinished.name.rpartition("-")[2]) if unfinished else 0
        update_part.whole = updates
        curve_part.kept = sum(measure == "curve" for measure, *_ in run.done)
        curve_part.whole = 1 + math.ceil(updates / options.recipe.every)
    trainer.add_callback(Watch(trainer, held_out, options.recipe.every, processes))
    if unfinished:
        refuse_unreadable(unfinished)
    trainer.train(resume_from_checkpoint=str(unfinished) if unfinished else None)
    if run.dry and (saved := last_state(states)):
        size = sum(file.stat().st_size for file in saved.rglob("*") if file.is_file())
        # save_total_limit, and the one that is being written before the oldest is removed
        run.dry.disk["states, until it is trained"] = size * min(3, 1 + updates // options.recipe.every)
        # float16
        run.dry.disk["the adapter"] = 2 * sum(p.numel() for p in model.parameters() if p.requires_grad)


def _arguments(
    model: PreTrainedModel | PeftModel,
    updates: int,
    recipe: Recipe,
    options: TrainingOptions,
    states: Path,
    processes: Processes,
) -> TrainingArguments:
    """Trainer's arguments for so many updates, with its states in the directory `states`."""
    arguments = TrainingArguments(
        output_dir=str(states),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=recipe.accumulation,
        max_steps=updates,
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
    return arguments

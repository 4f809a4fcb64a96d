"""A training command from its options to an adapter with its model card.

All but the objective is the same for ADVICE and ConfTuner: a `Task` names what differs. This module knows no formula of
an objective."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from interp.datasets.questions import fingerprint, loaded_questions
from interp.errors import UserError
from interp.options import Asked, Output, dry_run_of, identity_of
from interp.plain import visible
from interp.run.dryrun import DryRun
from interp.run.processes import Processes, launched
from interp.run.runs import Record, Run
from training.batches import AnyExample, mini_batches, split
from training.recipes import Recipe, TrainingOptions, filled_in, folder_of, preset_for

if TYPE_CHECKING:
    from interp.models.checkpoints import Checkpoint, Source
    from interp.pipelines.compare import Compare
    from training.objectives import Objective

MACHINE_ONLY = (
    "out",
    "device",
    "report_to",
    "diagnose",
    "diagnose_data",
    "leave_out",
    "also",
    "trust_remote_code",
    "dry_run",
)
"""Options that may change while a run is continued: the adapter is the same."""


@dataclass(frozen=True)
class Task(Generic[AnyExample]):
    """What is particular to a training command."""

    name: str
    """What the method is called."""
    recipes: Mapping[str, Recipe]
    """Its presets."""
    examples: Sequence[AnyExample]
    """All examples, before the split into training and held-out ones."""
    file: Path
    """Where they were read from."""
    objective: "type[Objective[AnyExample]]"
    """The class of its objective."""
    arranged: "Callable[[Sequence[AnyExample], Any], Sequence[AnyExample]] | None" = None
    """Repeats and drops examples for training, as the recipe of this command's own kind says; None: never."""
    on_adapters: bool = False
    """Whether the checkpoint may already carry an adapter."""


def session(options: TrainingOptions, task: Task[AnyExample], dry: DryRun | None = None) -> Path:
    """Measures, trains, measures again and writes the model card; an unfinished run is continued.

    Args:
        options: The command's options.
        task: What is particular to the command.
        dry: The dry run of the whole that this training is part of; by default the options say whether it is one.

    Returns:
        The adapter's directory.

    Raises:
        UserError: where an option cannot be met, the checkpoint carries an adapter that cannot be trained on, or
            training stops because memory ran out or a number is not finite.
    """
    dry, folder = dry or dry_run_of(options), folder_of(options)
    task = _without(task, options.recipe.without)
    train_on, held_out = split(task.examples, options.recipe.held_out, options.common.seed)
    _refuse_unknown(options.recipe.report_to)
    if options.computing.device.startswith("cuda:"):
        raise UserError(
            f"--device {options.computing.device}: Trainer takes the first GPU; choose it by CUDA_VISIBLE_DEVICES"
        )
    if options.around.diagnose:
        loaded_questions(options.around.diagnose_data)
    from interp.models.checkpoints import source_of

    source = source_of(options.ckpt, remote_code=options.common.trust_remote_code)
    if source.adapter and not task.on_adapters:
        base = source.base_name
        raise UserError(f"--ckpt {options.ckpt}: already carries an adapter; train on its base {base}")
    if source.adapter:
        from training.adapters import plain_lora

        plain_lora(source.adapter)  # refuses any other kind before anything is measured
    processes, comparing = launched(options.computing.device), _comparison(options)
    if dry:
        _trained(options, task, source, train_on, held_out, processes, dry)
        if comparing:
            from interp.pipelines.compare import foreseen

            foreseen(comparing, dry)
        return folder
    if comparing:
        from interp.pipelines.compare import compared, diagnosed_before

        diagnosed_before(comparing)
    _trained(options, task, source, train_on, held_out, processes)
    processes.wait()  # until the first process has saved the adapter
    comparison_folder = compared(comparing) if comparing else None
    if processes.first:
        from figures.report import reported
        from training.card import write_card

        if comparison_folder:
            reported(comparison_folder)
        reported(folder)
        write_card(folder, task.name)
    processes.wait()
    return folder


def _without(task: Task[AnyExample], relations: Sequence[str]) -> Task[AnyExample]:
    """The task without the examples of some relations.

    Raises:
        UserError: where there is no example of one of them.
    """
    known = {example.question.relation for example in task.examples}
    if unknown := [relation for relation in relations if relation not in known]:
        names = ", ".join(sorted(known - {""})) or "none"
        raise UserError(f"--without {unknown[0]}: not among the relations of {task.file}: {names}")
    return replace(task, examples=[e for e in task.examples if e.question.relation not in relations])


def _refuse_unknown(report_to: Sequence[str]) -> None:
    from transformers.integrations import get_available_reporting_integrations

    installed = get_available_reporting_integrations()
    if unknown := [name for name in report_to if name not in (*installed, "none")]:
        raise UserError(
            f"--report-to {unknown[0]}: not installed here; there is {', '.join(sorted(installed)) or 'none'}"
        )


def _comparison(options: TrainingOptions) -> "Compare | None":
    from interp.pipelines.compare import Compare

    if not options.around.diagnose:
        return None
    return Compare(
        before=options.ckpt,
        after=str(folder_of(options)),
        n_calibration=4 * options.around.diagnose,
        asked=Asked(data=options.around.diagnose_data, n=options.around.diagnose),
        prompt=replace(options.prompt, shot_sets=1),
        instruments=options.instruments,
        output=Output(out=folder_of(options) / "compare"),
        common=options.common,
        computing=replace(options.computing, dtype="float32" if options.computing.dtype == "float32" else "auto"),
    )


def _trained(
    options: TrainingOptions,
    task: Task[AnyExample],
    source: "Source",
    train_on: Sequence[AnyExample],
    held_out: Sequence[AnyExample],
    processes: Processes,
    dry: DryRun | None = None,
) -> None:
    """Trains and saves the adapter unless it is on record already, and writes the summary of its run."""
    from interp.models.adapters import WEIGHTS
    from interp.models.checkpoints import Loading, loaded_checkpoint
    from training.adapters import saved_adapter
    from training.loop import forget_states, train, with_adapter

    folder = folder_of(options)
    device, remote_code = processes.device(options.computing.device), options.common.trust_remote_code
    loading = Loading(device, options.computing.dtype, training=True, remote_code=remote_code)
    checkpoint = loaded_checkpoint(options.ckpt, loading)
    if processes.first:
        _warn_of_others(task, checkpoint, source)
    preset = preset_for(options, checkpoint.model.config.model_type, checkpoint.model.num_parameters())
    recipe = filled_in(task.recipes[preset], options)
    arranged = task.arranged(train_on, recipe) if task.arranged else train_on
    batches = mini_batches(arranged, recipe, options, processes.count)
    shots = options.prompt.shots_of(checkpoint.shots)
    identity = identity_of(options, MACHINE_ONLY) | {
        "method": task.name,
        "preset": preset,
        "base": source.base_name,
        "recipe": asdict(recipe),
        "shots": shots,
        "model": checkpoint.fingerprint,
        "note": checkpoint.note,
        "dtype": str(checkpoint.model.dtype).removeprefix("torch."),
        "examples": fingerprint(task.examples),
        "prompts": _prompts(checkpoint, options, shots, task.examples),
        "processes": processes.count,
    }
    with _opened(folder, identity, processes, dry) as run:
        # adapter and record must both exist: a run cut off between the two is continued from its last state
        if not ((folder / WEIGHTS).exists() and any(run.records("trained"))):
            model = with_adapter(checkpoint, recipe, options.common.seed)
            objective = task.objective(replace(checkpoint, model=model), shots, recipe, options.prompt.prompting())
            train(objective, batches, held_out, recipe, options, run, processes)
            if processes.first and not dry:
                saved_adapter(model, folder, source.base_name, source.adapter)
                run.append({"measure": "trained", "set": 0, "id": ""})
        if processes.first and not dry:
            forget_states(folder)
            run.write_summary({"training": _summary(run, task, train_on, held_out, identity)})


def _prompts(checkpoint: "Checkpoint", options: TrainingOptions, shots: int, examples: Sequence[AnyExample]) -> str:
    """A fingerprint of what is rendered around the examples' questions."""
    from interp.formats import FORMATS
    from interp.models.setting import prompter_for

    forms = sorted({example.format for example in examples})
    return fingerprint(
        prompter_for(checkpoint, FORMATS[form], options.prompt.prompting(), shots=shots, shot_seed=number).frame
        for form in forms
        for number in range(options.prompt.shot_sets)
    )


@contextmanager
def _opened(folder: Path, identity: Record, processes: Processes, dry: DryRun | None) -> Iterator[Run]:
    """The run, open for writing in the first process alone; the others read from it once the first has opened it."""
    run = Run(folder, identity, dry=dry, kind="training")
    if processes.first:
        with run:
            processes.wait()
            yield run
    else:
        processes.wait()
        yield run


def _warn_of_others(task: Task[AnyExample], checkpoint: "Checkpoint", source: "Source") -> None:
    """Warns where the answers are another model's: they express that model's knowledge, in its words."""
    # an example's model reads "base fingerprint"; where the checkpoint has an adapter, its base's answers are its own
    own_fingerprint, own_base = (f" {checkpoint.fingerprint}", f"{source.base_name} ")
    for model in sorted({example.model for example in task.examples}):
        if model and not model.endswith(own_fingerprint) and not (source.adapter and model.startswith(own_base)):
            print(
                f"warning: {task.file}: answers of {visible(model)}, not of {checkpoint.name} "
                f"{checkpoint.fingerprint}; a confidence trained on another model's answers is not about this one's "
                "knowledge",
                file=sys.stderr,
            )


def _summary(
    run: Run,
    task: Task[AnyExample],
    train_on: Sequence[AnyExample],
    held_out: Sequence[AnyExample],
    identity: Record,
) -> Record:
    curve = [{"update": int(point["id"]), "formats": point["formats"]} for point in run.records("curve")]
    return {
        "method": task.name,
        "preset": identity["preset"],
        "recipe": identity["recipe"],
        "examples": len(train_on),
        "questions": len({example.question.id for example in train_on}),
        "held_out": len(held_out),
        "models": sorted({example.model for example in task.examples if example.model}),
        "updates": sum(1 for _ in run.records("update")),
        "curve": sorted(curve, key=lambda point: point["update"]),
    }

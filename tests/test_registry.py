"""Another package's instrument, method and format: declared once, found by every command, table and figure."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from interp.formats import FORMATS, ConfidenceFormat
from interp.instruments.base import Metric
from interp.instruments.registry import INSTRUMENTS
from interp.methods.registry import METHODS, scores
from interp.registry import Registry

THEIRS = '''
"""What another package adds: how long answers are, a confidence of one half, and three levels."""

from dataclasses import dataclass

from interp.formats import ConfidenceFormat
from interp.instruments.base import Instrument, Metric
from interp.methods.base import Method, Score, Verdict
from interp.methods.default import READ


@dataclass(frozen=True)
class LengthOptions:
    scale: int = 1
    """What lengths are multiplied by."""


def measure(setting, cases, options, kept):
    return [{"values": {"letters": options.scale * len(case.answer), "answers": len(case.wrong)}} for case in cases]


LENGTH = Instrument(
    name="length",
    about="How many letters an answer has.",
    metrics=(
        Metric("length.letters", "Length of the answer", "letters, mean", "count", "letters", place="headline"),
        Metric("length.answers", "Length of the answer", "wrong answers, mean", "count", "answers", always=True),
    ),
    measure=measure,
    options=LengthOptions,
    needs_wrong_answers=True,
)
HALF = Method(
    name="half",
    about="One half, whatever the answer.",
    asking=READ,
    scores=(Score("half", "one half", lambda record, confidence, answer: answer and Verdict(answer, 0.5)),),
)
THIRDS = ConfidenceFormat("ScoreThirds", ("low", "mid", "high"), (0.0, 0.5, 1.0), "one of: low, mid, high")
'''
ENTRY_POINTS = """\
[advice.instruments]
length = theirs:LENGTH
[advice.methods]
half = theirs:HALF
[advice.formats]
thirds = theirs:THIRDS
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with their package in it, as an installer leaves it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "theirs.py").write_text(THEIRS)
    about = folder / "theirs-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def advice(site: Path, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The console script where their package is installed."""
    given = ["advice", *map(str, arguments)]
    code = f"import sys; sys.argv = {given!r}; from interp.cli.advice import main; sys.exit(main())"
    return started(site, folder, "-c", code)


def started(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python where their package is installed."""
    paths = os.pathsep.join((str(site), os.environ.get("PYTHONPATH", "")))
    environment = os.environ | {"PYTHONPATH": paths, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


FEW = ("--n", 4, "--candidates", 2, "--format", "ScoreThirds")
"""A few questions, in their format."""


@pytest.fixture(scope="module")
def on_own_data(own_data) -> tuple[object, ...]:
    """Options of a run on the questions of these tests."""
    return ("--data", own_data / "open.jsonl", "--device", "cpu", "--shots", 0)


@pytest.fixture(scope="module")
def alone(site, taught_checkpoint, on_own_data, tmp_path_factory) -> tuple[Path, str]:
    """The run of their instrument alone, and what its command printed."""
    folder = tmp_path_factory.mktemp("alone")
    given = ("--ckpt", taught_checkpoint, *on_own_data, *FEW, "--scale", 3, "--out", "run")
    done = advice(site, folder, "length", *given)
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


@pytest.mark.slow
def test_their_instrument_option_and_format_stand_in_the_help(site, tmp_path):
    listed = advice(site, tmp_path, "--help")
    assert "  length       How many letters an answer has." in listed.stdout
    helped = advice(site, tmp_path, "diagnose", "--help").stdout
    assert "--scale INT" in helped and "ScoreThirds" in helped and ",length}" in helped


@pytest.mark.slow
def test_their_instrument_is_a_command_with_its_option_summary_table_caption_figure_and_page(alone):
    run, printed = alone
    summary = json.loads((run / "summary.json").read_text())
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    lengths = [3 * len(r["answer"]) for r in records if r["measure"] == "answer" and r["right"]][:4]
    assert summary["length"]["letters"]["value"] == sum(lengths) / 4 and summary["length"]["letters"]["n"] == 4
    assert summary["format"] == "ScoreThirds" and summary["length"]["answers"]["n"] == 4
    assert "Length of the answer" in printed and "letters, mean" in printed
    caption = (run / "figures" / "length.txt").read_text()
    assert (run / "figures" / "length.png").exists()
    assert "How many letters an answer has." in caption and "Length of the answer: letters, mean" in caption
    page = (run / "report.html").read_text()
    assert "How many letters an answer has" in page and '"marks":["right","measured"]' in page


@pytest.mark.slow
def test_a_run_is_continued_with_the_same_option_of_theirs_only(site, taught_checkpoint, on_own_data, alone):
    run, _ = alone
    config = json.loads((run / "config.json").read_text())["identity"]
    assert config["scale"] == 3 and config["instruments"] == ["length"]
    given = ("--ckpt", taught_checkpoint, *on_own_data, *FEW, "--scale", 2, "--out", "run")
    other = advice(site, run.parent, "length", *given)
    assert other.returncode == 2 and "scale: 3 there, 2 now" in other.stderr


@pytest.mark.slow
def test_their_instrument_can_be_left_out(site, taught_checkpoint, on_own_data, tmp_path):
    nothing = advice(site, tmp_path, "length", "--ckpt", taught_checkpoint, *on_own_data, "--leave-out", "length")
    assert nothing.returncode == 2 and "no instrument is left" in nothing.stderr


@pytest.mark.slow
def test_their_method_stands_in_the_calibration_table(site, taught_checkpoint, on_own_data, tmp_path):
    """On the terminal, as CSV and as LaTeX."""
    done = advice(
        site, tmp_path, "evaluate", "--ckpt", taught_checkpoint, *on_own_data, "--n", 6,
        "--methods", "default", "half", "--formats", "ScoreThirds", "--out", "evaluated",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "evaluated" / "table.csv").read_text().splitlines()))
    (row,) = (row for row in rows if row["method"] == "one half")
    assert float(row["confidence"]) == 0.5 and row["format"] == "ScoreThirds" and "one half" in done.stdout
    assert "one half" in (tmp_path / "evaluated" / "table.tex").read_text()


@pytest.mark.slow
def test_their_numbers_stand_in_the_comparison_its_figure_and_the_model_card(
    site, taught_checkpoint, on_own_data, tmp_path
):
    others = ("--leave-out", "jsd", "rollout", "masking", "attribution", "--n-calibration", 0)
    after = shutil.copytree(taught_checkpoint, tmp_path / "after")
    done = advice(site, tmp_path, "compare", taught_checkpoint, after, *on_own_data, *FEW, *others, "--out", "both")
    assert done.returncode == 0, done.stderr
    compared = json.loads((tmp_path / "both" / "summary.json").read_text())
    assert compared["comparison"]["length.letters"]["difference"]["value"] == 0
    assert "letters, mean" in (tmp_path / "both" / "instruments.tex").read_text()
    assert (tmp_path / "both" / "figures" / "compare_length.png").exists()
    card = (
        "import json; from training.card import _compared; "
        "print(*_compared(json.load(open('both/summary.json'))), sep='\\n')"
    )
    shown = started(site, tmp_path, "-c", card)
    assert shown.returncode == 0, shown.stderr
    assert "| Length of the answer: letters, mean | " in shown.stdout and "wrong answers, mean" not in shown.stdout


@pytest.mark.slow
def test_what_another_package_cannot_bring_is_one_sentence(site, tmp_path):
    (site / "broken.py").write_text("raise RuntimeError('half installed')\n")
    about = site / "broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    for point, reason in (
        ("broken:X", "broken:X, cannot be imported: half installed; mend or uninstall that package"),
        ("theirs:THIRDS", "theirs:THIRDS, is a ConfidenceFormat, not one of Instrument"),
        ("interp.instruments.jsd:JSD", "takes the name 'jsd', which there is already"),
    ):
        (about / "entry_points.txt").write_text(f"[advice.instruments]\nx = {point}\n")
        done = started(site, tmp_path, "-m", "interp.diagnose") if "JSD" in point else advice(site, tmp_path, "jsd")
        assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: the entry point 'x' of advice.instruments, ") and reason in done.stderr


def test_an_instrument_whose_name_or_option_is_taken_is_refused_in_one_sentence(site, tmp_path):
    (site / "odd.py").write_text(
        "from dataclasses import dataclass, replace\nfrom theirs import LENGTH\n@dataclass(frozen=True)\n"
        "class Seeded:\n    seed: int = 1\nODD = replace(LENGTH, name='my-length')\n"
        "SEEDED = replace(LENGTH, name='seeded', options=Seeded)\n"
    )
    about = site / "odd-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (site / "broken-1.0.dist-info" / "entry_points.txt").unlink(missing_ok=True)
    for name, reason in (
        ("ODD", "the instrument 'my-length': its name must be an identifier, such as 'my_length'"),
        ("SEEDED", "the instrument 'seeded': its option 'seed' is one of another instrument or command"),
    ):
        (about / "entry_points.txt").write_text(f"[advice.instruments]\nx = odd:{name}\n")
        done = started(site, tmp_path, "-m", "interp.diagnose", "--n", "1")
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {reason}\n")
    (about / "entry_points.txt").unlink()


def test_a_registry_asks_for_its_own_only_when_a_name_is_looked_up():
    asked = []
    form = ConfidenceFormat("Two", ("no", "yes"), (0.0, 1.0), "no or yes")
    registry = Registry("advice.none", ConfidenceFormat, lambda: asked.append(1) or [form])
    assert not asked
    assert registry["Two"] is form and list(registry) == ["Two"] and len(registry) == 1 and asked == [1]
    with pytest.raises(KeyError):
        registry["Three"]


def test_the_packages_own_stand_first_in_their_order():
    assert list(INSTRUMENTS)[:4] == ["jsd", "rollout", "masking", "attribution"]
    assert list(METHODS)[:10] == [
        "default", "self-consistency", "p-true", "sequence", "question-only", "prompting", "recalibrated",
        "probe", "steered", "given",
    ]  # fmt: skip
    assert list(FORMATS)[:5] == ["ScoreLetter", "ScoreNumber", "ScoreText", "ScorePercent", "ScoreFloat"]
    assert len({*scores()}) == len([score for method in METHODS.values() for score in method.scores])


def test_every_number_has_a_key_and_a_title_of_its_own_and_begins_with_its_instrument():
    metrics = [metric for instrument in INSTRUMENTS.values() for metric in instrument.metrics]
    metrics += [
        metric for instrument in INSTRUMENTS.values() if instrument.repeated for metric in instrument.repeated.metrics
    ][:7]
    assert len({metric.key for metric in metrics}) == len({metric.title for metric in metrics}) == len(metrics)
    for name, instrument in INSTRUMENTS.items():
        assert all(metric.key.startswith(f"{name}.") for metric in instrument.metrics)


def test_a_number_that_no_question_has_is_absent_unless_it_always_stands_there():
    from interp.instruments.base import columns

    metrics = (
        Metric("x.a", "X", "a", "count", "a"),
        Metric("x.b", "X", "b", "count", "b", always=True),
        Metric("x.c", "X", "c", "count", "c", needs="d"),
    )
    assert columns(metrics, [{"values": {}}]).keys() == {"x.b"}
    assert columns(metrics, [{"values": {"a": None}}]).keys() == {"x.a", "x.b"}, "left out everywhere, and told so"
    assert columns(metrics, [{"values": {"a": 0, "d": None}}]).keys() == {"x.a", "x.b"}
    assert columns(metrics, [{"values": {"d": 1}}, {"values": {}}]).keys() == {"x.b", "x.c"}


def test_the_example_of_the_page_on_extending_is_an_instrument_that_measures(monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.M)
    module = ModuleType("my_package")
    monkeypatch.setitem(sys.modules, "my_package", module)  # where a dataclass looks for its module
    exec(code, module.__dict__)
    length = module.LENGTH
    records = length.measure(
        None, [SimpleNamespace(answer="Paris"), SimpleNamespace(answer="Bern")], length.options(2), []
    )
    assert length.estimates(records, {})["length.letters"].value == 2 * 4.5
    assert f'{length.name} = "my_package:LENGTH"' in page

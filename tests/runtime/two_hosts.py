"""Two hosts in one machine: a network namespace and a name each, and a cable between them."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

RUN = (sys.executable, "-c", "from gkdplan.cli.main import main; main()", "run")
PER_HOST = 2


@dataclass(frozen=True)
class Host:
    """`net` is its namespace, `address` what the other host reaches it at."""

    name: str
    net: str
    cable: str
    address: str

    def command(self, words: Sequence[str]) -> list[str]:
        """The words, run on this host."""
        inside = ["unshare", "--uts", "sh", "-c", f'hostname {self.name}; exec "$@"', "sh"]
        return ["ip", "netns", "exec", self.net, *inside, *words]

    def cut_off(self) -> None:
        _ip("-n", self.net, "link", "set", self.cable, "down")

    def join(self) -> None:
        _ip("-n", self.net, "link", "set", self.cable, "up")


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    tag = f"{os.getpid() % 10**6}"
    hosts = tuple(
        Host(f"host-{one}", f"gkd{tag}{one}", f"gkd{tag}{one}", f"10.213.7.{number}")
        for number, one in enumerate("ab", 1)
    )
    for host in hosts:
        _ip("netns", "add", host.net)
    try:
        first, second = hosts
        _ip("link", "add", first.cable, "netns", first.net, "type", "veth",
            "peer", "name", second.cable, "netns", second.net)  # fmt: skip
        for host in hosts:
            _ip("-n", host.net, "address", "add", f"{host.address}/24", "dev", host.cable)
            _ip("-n", host.net, "link", "set", "lo", "up")
            host.join()
        yield first, second
    finally:
        for host in hosts:
            _ip("netns", "del", host.net)


def why_not() -> str | None:
    """What stands in the way of such hosts here: they take the rights of an administrator."""
    try:
        _ip("netns", "add", f"gkdtry{os.getpid()}")
        _ip("netns", "del", f"gkdtry{os.getpid()}")
    except (OSError, subprocess.CalledProcessError) as failure:
        return f"no network namespaces: {failure}"
    return None


@dataclass
class Tasks:
    """What `srun --ntasks-per-node 2 gkdplan run PLAN` starts on the two hosts: a process a rank,
    with Slurm's variables. Slurm itself is not there."""

    places: dict[Host, Path]
    """The working directory on each host, in the order of the nodes."""
    environment: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> "Tasks":
        self.processes = [
            subprocess.Popen(
                host.command((*RUN, "plan.toml")),
                cwd=place,
                env=os.environ | self._of_task(number * PER_HOST + local) | self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number, (host, place) in enumerate(self.places.items())
            for local in range(PER_HOST)
        ]
        return self

    def __exit__(self, *failure: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def _of_task(self, rank: int) -> dict[str, str]:
        return {
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank % PER_HOST),
            "SLURM_STEP_NUM_TASKS": str(len(self.places) * PER_HOST),
            "MASTER_ADDR": next(iter(self.places)).address,
            "OMP_NUM_THREADS": "1",
        }

    def end(self, limit_s: float) -> list[tuple[int, str, str]]:
        """Exit code, stdout and stderr of each rank."""
        ends = [process.communicate(timeout=limit_s) for process in self.processes]
        return [(p.returncode, *said) for p, said in zip(self.processes, ends, strict=True)]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)

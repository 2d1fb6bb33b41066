"""What a cluster file is made from: one validated plan, which the three writers beside it render.

Values end up in shell scripts and YAML, so a plan takes only printable text, and every writer quotes what it writes.
"""

import re
import shlex
from dataclasses import dataclass
from typing import Any

from skysom.cluster.errors import LaunchError

GIB = 1024**3
_UNITS = {"M": 1024**2, "G": GIB, "T": 1024 * GIB}
_SMALLEST_STORE = 100 * 1024**2  # Ray refuses less than 75 MiB
_OURS = ("--output", "-o", "--ray-address", "--executor", "--help")


@dataclass(frozen=True)
class ClusterPlan:
    """A cluster and the `skysom run` it is for.

    output: URL or absolute path of the results, seen by every node; arguments: of `skysom run`, one a string;
    nodes: machines that compute; memory, object_store: of a node, such as "64G"; object_store is Ray's shared memory
    (default: an eighth of memory); walltime: "HH:MM:SS" or "D-HH:MM:SS"; port: of Ray's head (default: found by the
    file itself, else Ray's own); worker_ports: (lowest, highest) of Ray's workers (default: any free one); restarts:
    times the job starts again by itself after its time limit or a failure; start_deadline_s: seconds all nodes
    have for joining.

    Raises LaunchError for a value that no cluster file can carry.
    """

    output: str
    arguments: tuple[str, ...] = ()
    name: str = "skysom"
    nodes: int = 2
    cpus_per_node: int = 8
    gpus_per_node: int = 0
    memory: str = "32G"
    object_store: str | None = None
    walltime: str = "24:00:00"
    log_directory: str = "skysom-logs"
    port: int | None = None
    worker_ports: tuple[int, int] | None = None
    restarts: int = 3
    start_deadline_s: int = 600

    def __post_init__(self) -> None:
        """Refuse what cannot be written."""
        matches(
            "--name", self.name, r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "letters, digits, '.', '_' and '-', as in vlass"
        )
        for option, count, least in (
            ("--nodes", self.nodes, 1), ("--cpus", self.cpus_per_node, 1), ("--gpus", self.gpus_per_node, 0),
            ("--restarts", self.restarts, 0), ("--start-deadline", self.start_deadline_s, 10),
        ):  # fmt: skip
            if count < least:
                raise LaunchError(f"{option} is {count}; give {least} or more")
        if seconds(self.walltime) < 60:
            raise LaunchError(f"--time is {self.walltime}; give a minute (00:01:00) or more")
        if not _SMALLEST_STORE <= self.object_store_bytes < self.memory_bytes:
            raise LaunchError(
                f"the object store of {self.object_store_bytes / GIB:.2f} GiB does not fit a node of --memory "
                f"{self.memory}; give --object-store 100M or more, and less than --memory"
            )
        self._check_ports()
        located("--output", self.output)
        written("--log-directory", self.log_directory)
        for argument in self.arguments:
            written("an argument of skysom run", argument, empty=True)
            if argument.split("=")[0] in _OURS:
                raise LaunchError(f"{argument} is set by the cluster file itself; leave it out after --")

    def _check_ports(self) -> None:
        low, high = self.worker_ports or (20000, 20001)
        for port in (low, high) if self.port is None else (low, high, self.port):
            if not 1024 <= port <= 65535:
                raise LaunchError(f"port {port} is out of range; give one from 1024 to 65535")
        if high <= low:
            raise LaunchError(f"--worker-ports {low}-{high} runs backwards; give LOW-HIGH, as in 20000-21000")
        if self.worker_ports and high - low < 2 * self.cpus_per_node:
            raise LaunchError(
                f"--worker-ports {low}-{high} are {high - low + 1} for {self.cpus_per_node} CPUs; give {low}-"
                f"{low + 4 * self.cpus_per_node} or more, Ray takes some beside its workers"
            )
        if self.worker_ports and self.port is not None and low <= self.port <= high:
            raise LaunchError(f"--port {self.port} lies within --worker-ports {low}-{high}; give one outside")

    @property
    def memory_bytes(self) -> int:
        """Memory of a node in bytes."""
        return size_bytes("--memory", self.memory)

    @property
    def object_store_bytes(self) -> int:
        """Shared memory of Ray's object store on a node, in bytes."""
        if self.object_store is not None:
            return size_bytes("--object-store", self.object_store)
        return max(self.memory_bytes // 8, _SMALLEST_STORE)

    @property
    def command(self) -> tuple[str, ...]:
        """The command the cluster is for, one word a string."""
        return ("skysom", "run", "--output", self.output, *self.arguments, "--ray-address", "auto")

    @property
    def shell_command(self) -> str:
        """The command as a line of shell."""
        return shlex.join(self.command)


def matches(option: str, value: str, pattern: str, expected: str) -> str:
    """Return ``value``, or raise LaunchError naming ``expected`` where it does not match the whole ``pattern``."""
    if not re.fullmatch(pattern, value, re.ASCII):
        raise LaunchError(f"{option} is {value!r}; give {expected}")
    return value


def written(option: str, value: str, *, empty: bool = False) -> str:
    """Return ``value``, or raise LaunchError where it is empty or holds a line break or another control character."""
    if not value.isprintable() or not (value or empty):
        raise LaunchError(f"{option} is {value!r}; give printable text on one line")
    return value


def absolute(option: str, value: str) -> str:
    """Return ``value``, or raise LaunchError where it is not an absolute path of printable text."""
    if not written(option, value).startswith("/"):
        raise LaunchError(f"{option} is {value!r}; give the whole path from /, as every node sees it")
    return value


def located(option: str, value: str) -> str:
    """Return ``value``, or raise LaunchError where it is neither a URL nor an absolute path."""
    if re.match(r"[a-z][a-z0-9+.-]*://.", written(option, value)):
        return value
    if not value.startswith("/"):
        raise LaunchError(
            f"{option} is {value!r}; give a URL (s3://bucket/run) or the whole path every node sees it at"
        )
    return value


def size_bytes(option: str, value: str) -> int:
    """Bytes of a size such as "500M", "64G" or "1T" (powers of 1024); raises LaunchError for any other text."""
    matches(option, value, r"[1-9][0-9]{0,5}[MGT]", "a number and M, G or T, as in 64G")
    return int(value[:-1]) * _UNITS[value[-1]]


def seconds(walltime: str) -> int:
    """Seconds of "HH:MM:SS" or "D-HH:MM:SS"; raises LaunchError for any other text."""
    found = re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,3}):([0-5]\d):([0-5]\d)", walltime, re.ASCII)
    if not found or (found[1] and int(found[2]) > 23):
        raise LaunchError(f"--time is {walltime!r}; give HH:MM:SS or D-HH:MM:SS, as in 12:00:00 or 2-00:00:00")
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def quoted(value: Any) -> str:
    """``value`` as a scalar of YAML: JSON's strings are YAML's double-quoted ones."""
    import json

    return json.dumps(value, ensure_ascii=False)

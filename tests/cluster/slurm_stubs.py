"""A SLURM of one machine: `srun` starts a step here as if on the named node, `scontrol` knows the nodes.

`srun` knows only options of the real one, and every step's process id is written down.
"""

import os
import subprocess
import sys
from pathlib import Path

_SRUN = """#!/bin/bash
node=''
while [ $# -gt 0 ]; do
    case "$1" in
        --nodelist=*) node=${1#*=} ;;
        --nodes=1 | --ntasks=1 | --overlap | --cpus-per-task=* | --gpus-per-node=* | --cpu-bind=none | --mpi=none) ;;
        --kill-on-bad-exit=0) ;;
        -*) echo "srun: unrecognized option $1" >&2; exit 1 ;;
        *) break ;;
    esac
    shift
done
[ -n "$node" ] || { echo "srun: no node" >&2; exit 1; }
echo "$node $$" >> "$STUB_STATE/steps"
export SLURMD_NODENAME="$node" SLURM_PROCID=0
exec "$@"
"""

_SCONTROL = """#!/bin/bash
case "$1 $2" in
    "show hostnames") tr ',' '\\n' <<< "$3" ;;
    requeue*) echo "$*" >> "$STUB_STATE/requeued" ;;
    *) echo "scontrol: $*" >&2; exit 1 ;;
esac
"""


class Slurm:
    """Stubs in a folder, first in PATH, and the scripts run with them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state, self.work = folder / "bin", folder / "state", folder / "work"
        for directory in (self.folder, self.state, self.work):
            directory.mkdir(parents=True)
        self.program("srun", _SRUN)
        self.program("scontrol", _SCONTROL)
        self.processes: list[subprocess.Popen[bytes]] = []

    def program(self, name: str, text: str) -> None:
        """Put another program first in PATH."""
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def submit(self, script: str, job: int, nodes: tuple[str, ...], **environment: str) -> subprocess.Popen[bytes]:
        """Start a job script as slurmd would, its output in work/job.out."""
        path = self.state / "script.sh"
        path.write_text(script)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM_"))}
        environment = inherited | {
            "PATH": f"{self.folder}:{Path(sys.executable).parent}:{os.environ['PATH']}", "STUB_STATE": str(self.state),
            "SLURM_JOB_ID": str(job), "SLURM_JOB_NODELIST": ",".join(nodes),
        } | environment  # fmt: skip
        with (self.work / "job.out").open("ab") as out:
            process = subprocess.Popen(
                ["bash", str(path)], cwd=self.work, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def output(self) -> str:
        """What the job said so far."""
        return (self.work / "job.out").read_text()

    def steps(self) -> list[tuple[str, int]]:
        """(node, process id) of every step."""
        path = self.state / "steps"
        lines = path.read_text().split("\n") if path.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines if line]

    def close(self) -> None:
        """End what is left, by process id: the whole session of a job that did not end by itself."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait(30)


def alive(pid: int) -> bool:
    """Whether a process with this id is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

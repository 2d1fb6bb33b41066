"""The SLURM job script: Ray's head and workers as job steps, then `skysom run` on the first node."""

import shlex
from dataclasses import dataclass

from skysom.cluster.errors import LaunchError
from skysom.cluster.launch import ClusterPlan, absolute, matches, written

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.,@+-]*"
_LONGEST_TEMPORARY = 24  # Ray's sockets lie below it, and a socket's path has 107 bytes


@dataclass(frozen=True)
class SlurmOptions:
    """What only SLURM needs: the queue, and where skysom is installed.

    modules: `module load` each; environment: a virtual environment every node sees; container: an image run by
    apptainer; temporary: short directory on each node's own disk. Raises LaunchError for what cannot be written.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    modules: tuple[str, ...] = ()
    environment: str | None = None
    container: str | None = None
    temporary: str = "/tmp"

    def __post_init__(self) -> None:
        """Refuse what cannot be written."""
        for option, value in (("--partition", self.partition), ("--account", self.account), ("--qos", self.qos)):
            if value is not None:
                matches(option, value, _NAME, "the name your site uses, letters, digits and . _ , @ + -")
        if self.constraint is not None:
            matches(
                "--constraint",
                self.constraint,
                r"[A-Za-z0-9_.,&|*()\[\]-]+",
                "features without spaces, as in a100|h100",
            )
        for module in self.modules:
            matches("--module", module, r"[A-Za-z0-9][A-Za-z0-9_.+/-]*", "a module's name, as in python/3.11")
        if self.environment is not None:
            absolute("--environment", self.environment)
        if self.container is not None:
            written("--container", self.container)
        if self.environment and self.container:
            raise LaunchError("--environment and --container were both given; give one, skysom is installed in it")
        if len(absolute("--temporary", self.temporary)) > _LONGEST_TEMPORARY:
            raise LaunchError(
                f"--temporary is {len(self.temporary)} letters long; give at most {_LONGEST_TEMPORARY}, as in /tmp: "
                "the paths of Ray's sockets begin with it"
            )


def render_slurm(plan: ClusterPlan, options: SlurmOptions) -> str:
    """Text of a script for `sbatch`. Raises LaunchError for a log directory that an #SBATCH line cannot hold."""
    return "\n".join((*_directives(plan, options), "", _EDIT, *_settings(plan, options), _BODY))


def _directives(plan: ClusterPlan, options: SlurmOptions) -> list[str]:
    """What sbatch reads. These lines know no quoting to rely on, so their values have no character that needs it."""
    logs = plan.log_directory
    matches(
        "--log-directory",
        logs,
        r"[A-Za-z0-9_./@+=,][A-Za-z0-9_./@+=,:-]*",
        "a path of letters, digits and . _ / @ + = , : -",
    )
    lines = [
        f"--job-name={plan.name}",
        f"--nodes={plan.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={plan.cpus_per_node}",
        f"--mem={plan.memory}",
        f"--time={plan.walltime}",
        f"--output={logs}/%x-%j.out",
        "--open-mode=append",
        "--requeue",
        "--no-kill",
        "--signal=B:USR1@120",
    ]
    if plan.gpus_per_node:
        lines.insert(4, f"--gpus-per-node={plan.gpus_per_node}")
    for option in ("partition", "account", "qos", "constraint"):
        if (value := getattr(options, option)) is not None:
            lines.append(f"--{option}={value}")
    return [
        "#!/bin/bash",
        "# A Ray cluster for skysom on SLURM. Submit it from a directory that every node sees:",
        f"#     mkdir -p {shlex.quote(logs)} && sbatch THIS_FILE",
        "# Edit here: nodes, GPUs, memory, time, queue. Add #SBATCH --exclusive where nodes are shared with strangers.",
        *(f"#SBATCH {line}" for line in lines),
        "# --requeue: starts again after a node failure or a preemption, and skysom resumes; --no-kill: goes on",
        "# without a lost worker node; --signal: 120 s before the time limit Ray is ended in order.",
    ]


_EDIT = """set -eo pipefail

# ---- Edit here: where skysom is, what runs, and how large Ray may be -----------------------------------------"""


def _settings(plan: ClusterPlan, options: SlurmOptions) -> list[str]:
    """Assignments of bash: everything below them is the same in every file."""
    lines = [f"module load {shlex.quote(module)}" for module in options.modules]
    inside = ["env"]
    if options.environment is not None:
        place = shlex.quote(options.environment)
        lines += [
            "# Made once on the login node, in skysom's sources, from the project's lock file:",
            f"#     python3.11 -m venv {place}",
            f"#     {place}/bin/pip install . --constraint constraints.txt",
            f"environment={place}",
            '[ -f "$environment/bin/activate" ] || {',
            '    echo "skysom: no virtual environment at $environment; make it as this script says" >&2; exit 1; }',
            'source "$environment/bin/activate"',
        ]
    if options.container is not None:
        lines.append(
            "# Add --bind DIRECTORY for data outside your home; the image has skysom, made with constraints.txt."
        )
        inside = ["apptainer", "exec", *(["--nv"] if plan.gpus_per_node else []), options.container]
    low, high = plan.worker_ports or (0, 0)
    step = ["srun", "--nodes=1", "--ntasks=1", "--overlap", f"--cpus-per-task={plan.cpus_per_node}"]
    step += [f"--gpus-per-node={plan.gpus_per_node}"] if plan.gpus_per_node else []
    step += ["--cpu-bind=none", "--mpi=none", "--kill-on-bad-exit=0"]
    ray_node = ["ray", "start", "--block", f"--num-cpus={plan.cpus_per_node}", f"--num-gpus={plan.gpus_per_node}"]
    ray_node += [f"--object-store-memory={plan.object_store_bytes}"]
    ray_node += [f"--min-worker-port={low}", f"--max-worker-port={high}", "--dashboard-agent-listen-port=0"]
    return [
        *lines,
        f"command=({plan.shell_command})",
        f"inside=({shlex.join(inside)})",
        f"log_directory={shlex.quote(plan.log_directory)}",
        f"temporary={shlex.quote(options.temporary)}  # on each node's own disk; short, Ray's sockets lie there",
        f"max_restarts={plan.restarts}  # times this job queues itself again at its time limit",
        f"start_deadline_s={plan.start_deadline_s}  # seconds all nodes have for joining",
        f"port={plan.port or ''}  # of Ray's head; empty: a free one, by the job's id",
        "head_address=${SKYSOM_HEAD_ADDRESS:-}  # of the first node's fast network; empty: what its name stands for",
        "# Explicit, because under SLURM Ray misreads what a node has (ray issue 13607):",
        f"ray_node=({shlex.join(ray_node)})",
        f"step=({shlex.join(step)})",
        "# ---- Nothing to edit below -------------------------------------------------------------",
    ]


_BODY = r"""
set -u
say() { echo "$(date '+%Y-%m-%d %H:%M:%S') $*"; }
fail() { say "skysom: $*" >&2; exit 1; }

[ -n "${SLURM_JOB_ID:-}" ] || fail "this is no SLURM job; submit this file with sbatch"
mapfile -t nodes < <(scontrol show hostnames "${SLURM_JOB_NODELIST:-}")
[ "${#nodes[@]}" -gt 0 ] || fail "scontrol names no node of job $SLURM_JOB_ID; look at: scontrol show job $SLURM_JOB_ID"
restart=${SLURM_RESTART_COUNT:-0}
mkdir -p -- "$log_directory"
run_directory=$(cd -- "$log_directory" && pwd)/$SLURM_JOB_ID-$restart
mkdir -p -- "$run_directory"
if [ "${inside[0]}" = apptainer ]; then
    inside=(apptainer exec --bind "$run_directory" --bind "$temporary" "${inside[@]:2}")
fi
"${inside[@]}" skysom version > /dev/null || fail "skysom does not run on ${nodes[0]}; mend the environment at the top"

# A fresh key: only who can read this file (this user) can join or use the cluster.
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$run_directory/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$run_directory/token" RAY_USAGE_STATS_ENABLED=0
unset RAY_AUTH_TOKEN RAY_ADDRESS
ulimit -S -n hard || true  # Ray opens many files and sockets

pids=() driver='' time_limit=''
end_all() {  # end_all SECONDS PID...: ask each to end, kill it when the time is over
    local deadline=$((SECONDS + $1)) pid
    shift
    for pid in "$@"; do kill -TERM "$pid" 2> /dev/null || true; done
    for pid in "$@"; do
        while kill -0 "$pid" 2> /dev/null; do
            if [ "$SECONDS" -ge "$deadline" ]; then kill -KILL "$pid" 2> /dev/null || true; break; fi
            sleep 0.2
        done
    done
}
finish() {  # the driver first, then the workers, then the head: each finds what it needs to end in order
    local status=$?
    trap '' TERM INT USR1
    trap - EXIT
    [ -z "$driver" ] || end_all 20 "$driver"
    [ "${#pids[@]}" -lt 2 ] || end_all 40 "${pids[@]:1}"
    [ "${#pids[@]}" -lt 1 ] || end_all 40 "${pids[0]}"
    rm -f -- "$run_directory/token"
    if [ -n "$time_limit" ]; then
        if [ "$restart" -lt "$max_restarts" ] && scontrol requeue "$SLURM_JOB_ID"; then
            say "time limit: the job is queued again and resumes (restart $((restart + 1)) of $max_restarts)"
        else
            say "time limit: submit this file again to resume"
        fi
    elif [ "$status" -ne 0 ]; then
        say "ended with status $status; logs of each node: $run_directory; submit this file again to resume"
    else
        say "done; logs of each node: $run_directory"
    fi
    exit "$status"
}
trap finish EXIT
trap 'time_limit=1; exit 75' USR1
trap 'exit 143' TERM
trap 'exit 130' INT

if [ -z "$head_address" ]; then
    head_address=$(getent ahostsv4 "${nodes[0]}" | awk '$1 !~ /^127\./ { print $1; exit }') || true
    [ -n "$head_address" ] || head_address=$(hostname -I | awk '{ print $1 }') || true
    [ -n "$head_address" ] || fail "the address of ${nodes[0]} is not known; set head_address at the top of this file"
fi
# Several jobs may share a node: ports go by the job's id. Ray's client server exists only where grpc is installed.
read -r port client_port < <("${inside[@]}" python - "$SLURM_JOB_ID" "${port:-0}" <<'PYTHON'
import importlib.util, socket, sys

job, wanted = int(sys.argv[1]), int(sys.argv[2])
first = wanted or 20000 + job % 3000 * 4
for port in [wanted] if wanted else range(first, first + 400, 4):
    try:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("", port)), two.bind(("", port + 1))
    except OSError:
        continue
    print(port, f"--ray-client-server-port={port + 1}" if importlib.util.find_spec("grpc") else "")
    break
PYTHON
) || fail "no free port on ${nodes[0]}; set port at the top of this file"
export RAY_ADDRESS="$head_address:$port"

# On each node: a private directory for Ray, Ray until it ends, its logs to the shared directory.
# shellcheck disable=SC2016  # expanded on the node
node_script='
directory=$1 logs=$2 ray=
shift 2
mkdir -m 700 -- "$directory" || exit 1
trap "[ -z \"\$ray\" ] || kill -TERM \$ray" TERM INT
"$@" & ray=$!
status=0
wait "$ray" || status=$?
while kill -0 "$ray" 2> /dev/null; do wait "$ray" || status=$?; done
mkdir -p -- "$logs" && cp -r -- "$directory"/session_2*/logs/. "$logs"
rm -rf -- "$directory"
exit "$status"
'
start_node() {  # start_node NUMBER ARGUMENTS...: ray start on that node, as a job step of its own
    local number=$1 directory="$temporary/sk$SLURM_JOB_ID-$restart-$1"
    shift
    "${step[@]}" --nodelist="${nodes[number]}" bash -c "$node_script" node "$directory" "$run_directory/node-$number" \
        "${inside[@]}" "${ray_node[@]}" --temp-dir="$directory" "$@" \
        < /dev/null > "$run_directory/node-$number.log" 2>&1 &
    pids[number]=$!
}

say "Ray's head on ${nodes[0]} at $RAY_ADDRESS, $((${#nodes[@]} - 1)) nodes beside it"
deadline=$((SECONDS + start_deadline_s))
start_node 0 --head --port="$port" --node-ip-address="$head_address" --include-dashboard=false \
    ${client_port:+"$client_port"}
until (exec 3<> "/dev/tcp/$head_address/$port") 2> /dev/null; do
    kill -0 "${pids[0]}" 2> /dev/null || fail "Ray's head ended at once; look at $run_directory/node-0.log"
    [ "$SECONDS" -lt "$deadline" ] ||
        fail "Ray's head did not open $RAY_ADDRESS in $start_deadline_s s; look at $run_directory/node-0.log"
    sleep 0.5
done
for ((number = 1; number < ${#nodes[@]}; number++)); do
    start_node "$number" --address="$RAY_ADDRESS"
done
timeout "$start_deadline_s" "${inside[@]}" \
    python - "${#nodes[@]}" "$((deadline - SECONDS))" "$run_directory" "${pids[@]}" <<'PYTHON' &
import os, sys, time

import ray

wanted, wait_s, logs, steps = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
end = time.monotonic() + wait_s - 5
ray.init(address="auto", log_to_driver=False, configure_logging=False)
while (alive := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > end:
        sys.exit(f"{alive} of {wanted} nodes joined in {wait_s} s; look at {logs}/node-*.log")
    for number, step in enumerate(steps):
        try:
            os.kill(int(step), 0)
        except ProcessLookupError:
            sys.exit(f"Ray on node {number} ended at once; look at {logs}/node-{number}.log")
    time.sleep(0.5)
PYTHON
driver=$!
wait "$driver" || fail "the cluster is not whole after $start_deadline_s s at most; look at $run_directory/node-*.log"
say "all ${#nodes[@]} nodes joined"

# In the background, so that a signal is handled at once.
"${inside[@]}" "${command[@]}" &
driver=$!
status=0
wait "$driver" || status=$?
exit "$status"
"""

"""The YAML for `ray up`: a list of machines of one's own, reached by ssh, or instances of AWS."""

import shlex
from dataclasses import dataclass
from typing import Literal

from skysom.cluster.errors import LaunchError
from skysom.cluster.launch import ClusterPlan, absolute, matches, quoted, written

_HOST = r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?"
_HOST_WORDS = "a host's name or address, as in gpu1.obs.org or 10.0.0.5"
_AWS_WORDS = "letters, digits, '.', '_' and '-'"


@dataclass(frozen=True)
class RayUpOptions:
    """What only `ray up` needs.

    hosts: of the local provider, the head first; ssh_key: path of the private key on this machine; project: folder of
    skysom's sources on this machine, copied to each node and installed there with constraints.txt; data: a directory
    every node sees, if any. aws: region, instance types, and the profile that lets instances reach the object store.
    Raises LaunchError for what cannot be written.
    """

    project: str
    hosts: tuple[str, ...] = ()
    provider: Literal["local", "aws"] = "local"
    ssh_user: str = "ubuntu"
    ssh_key: str | None = None
    region: str = "us-west-2"
    head_type: str = "m5.large"
    worker_type: str = "m5.2xlarge"
    instance_profile: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be written."""
        absolute("--project", self.project)
        matches("--ssh-user", self.ssh_user, r"[a-z_][a-z0-9_-]{0,31}", "a user's name, as in ubuntu")
        for host in self.hosts:
            matches("--host", host, _HOST, _HOST_WORDS)
        if len(set(self.hosts)) != len(self.hosts):
            raise LaunchError(f"--host names a machine twice: {', '.join(self.hosts)}; give each once, the head first")
        if self.provider == "local" and not self.hosts:
            raise LaunchError("no machine is given; give --host for each, the head first")
        if self.provider == "aws" and self.hosts:
            raise LaunchError("--host was given with --provider aws, which starts its own; leave one of them out")
        if self.ssh_key is not None:
            written("--ssh-key", self.ssh_key)
        matches("--region", self.region, r"[a-z]{2}(-[a-z]+)+-\d", "a region of AWS, as in us-west-2")
        for option, value in (("--head-type", self.head_type), ("--worker-type", self.worker_type)):
            matches(option, value, r"[a-z0-9-]+\.[a-z0-9-]+", "an instance type, as in g5.2xlarge")
        if self.instance_profile is not None:
            matches("--instance-profile", self.instance_profile, r"[A-Za-z0-9+=,.@_-]{1,128}", _AWS_WORDS)


def render_ray_up(plan: ClusterPlan, options: RayUpOptions) -> str:
    """YAML for `ray up`. Raises LaunchError where the number of machines and --nodes differ."""
    if options.provider == "local" and plan.nodes != len(options.hosts):
        raise LaunchError(f"--nodes is {plan.nodes} and {len(options.hosts)} hosts are given; give --host once a node")
    provider = _local(options) if options.provider == "local" else _aws(plan, options)
    key = f"\n  ssh_private_key: {quoted(options.ssh_key)}" if options.ssh_key is not None else ""
    # On AWS a head without GPUs serves the workers; among machines of one's own the head computes as well.
    worker = f"--num-cpus={plan.cpus_per_node} --num-gpus={plan.gpus_per_node}"
    head = worker if options.provider == "local" else "--num-cpus=0 --num-gpus=0"
    store = f"--object-store-memory={plan.object_store_bytes}"
    ports = ""
    if plan.worker_ports is not None:
        ports = f" --min-worker-port={plan.worker_ports[0]} --max-worker-port={plan.worker_ports[1]}"
    port = plan.port or 6379
    start_head = (
        f"ulimit -n 65536; {_INSIDE} ray start --head --port={port} {head} {store}{ports} --include-dashboard=false "
        "--autoscaling-config=~/ray_bootstrap_config.yaml"
    )
    start_worker = f"ulimit -n 65536; {_INSIDE} ray start --address=$RAY_HEAD_IP:{port} {worker} {store}{ports}"
    return _TEXT.format(
        command=_remote_command(plan),
        name=quoted(plan.name),
        max_workers=plan.nodes - 1 if options.provider == "local" else plan.nodes,
        provider=provider,
        ssh_user=quoted(options.ssh_user),
        key=key,
        project=quoted(options.project),
        head_setup=_BOTO if options.provider == "aws" else "head_setup_commands: []",
        stop=quoted(f"{_INSIDE} ray stop"),
        start_head=quoted(start_head),
        start_worker=quoted(start_worker),
    )


# The environment of every command on a node: each is a login of its own.
_INSIDE = "export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0; . ~/skysom-env/bin/activate;"
_BOTO = (
    "head_setup_commands:  # the head starts the workers\n"
    "  - ~/skysom-env/bin/pip install --quiet boto3 --constraint ~/skysom/constraints.txt"
)


def _remote_command(plan: ClusterPlan) -> str:
    """One word of shell for `ray exec`: the run, with its log on the head."""
    logs = shlex.quote(plan.log_directory)
    return shlex.quote(f"{_INSIDE} mkdir -p {logs} && {plan.shell_command} >> {logs}/{plan.name}.log 2>&1")


def _local(options: RayUpOptions) -> str:
    return (
        f"provider:\n  type: local\n  head_ip: {quoted(options.hosts[0])}\n"
        f"  worker_ips: [{', '.join(quoted(host) for host in options.hosts[1:])}]"
    )


def _aws(plan: ClusterPlan, options: RayUpOptions) -> str:
    """Provider and node types of AWS; Ray fills in image, network and keys."""
    profile = ""
    if options.instance_profile is not None:
        profile = f"\n      IamInstanceProfile: {{Name: {quoted(options.instance_profile)}}}"
    return f"""\
provider:
  type: aws
  region: {quoted(options.region)}
  use_internal_ips: false  # true where you are inside the network of the instances
head_node_type: head
available_node_types:
  head:
    resources: {{"CPU": 0, "GPU": 0}}  # it serves the others
    node_config:
      InstanceType: {quoted(options.head_type)}{profile}
  worker:
    min_workers: {plan.nodes}
    max_workers: {plan.nodes}
    resources: {{"CPU": {plan.cpus_per_node}, "GPU": {plan.gpus_per_node}}}
    node_config:
      InstanceType: {quoted(options.worker_type)}{profile}
      # InstanceMarketOptions: {{MarketType: spot}}  # cheaper; skysom goes on when one is taken away"""


_TEXT = """\
# A Ray cluster for skysom, by `ray up` (needs rsync and ssh here, Python 3.11 on the nodes).
#     ray get-auth-token --generate                # once: the key to your clusters, copied below
#     ray up THIS_FILE
#     ray exec --tmux THIS_FILE {command}
#     ray down THIS_FILE                           # the results stay
# Edit: machines, CPUs and GPUs in the start commands (leave them out where machines differ: Ray counts), memory.
cluster_name: {name}
max_workers: {max_workers}
idle_timeout_minutes: 100000  # machines stay until `ray down`
{provider}
auth:
  ssh_user: {ssh_user}{key}
file_mounts:
  ~/skysom: {project}
  ~/.ray/auth_token: ~/.ray/auth_token
rsync_exclude: [".git", ".venv", "**/__pycache__"]
setup_commands:  # from the project's lock file
  - python3.11 -m venv ~/skysom-env
  - ~/skysom-env/bin/pip install --quiet ~/skysom --constraint ~/skysom/constraints.txt
{head_setup}
head_start_ray_commands:
  - {stop}
  - {start_head}
worker_start_ray_commands:
  - {stop}
  - {start_worker}
"""

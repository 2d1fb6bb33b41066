"""`skysom cluster`: files that start a Ray cluster and run skysom in it, on SLURM, Kubernetes or one's own machines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from skysom.cluster.launch import ClusterPlan

cluster_app = typer.Typer(
    help="Write a job script or YAML that starts a cluster and runs skysom in it; edit a few lines and submit it.\n\n"
    "What comes after -- goes to [bold]skysom run[/bold], which finds the cluster by itself and resumes when the file "
    "is submitted again.",
    rich_markup_mode="rich",
    no_args_is_help=True,
)

Output = Annotated[
    str, typer.Option("--output", "-o", help="URL (s3://bucket/run) or whole path of the results, seen by every node.")
]
Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="-- ARGUMENTS", help="Of skysom run, e.g. -- --preset vlass -i s3://b/fits."),
]
Name = Annotated[str, typer.Option("--name", help="Of the job or cluster.")]
Nodes = Annotated[int, typer.Option("--nodes", "-n", help="Machines that compute.")]
Cpus = Annotated[int, typer.Option("--cpus", help="CPUs of a node.")]
Gpus = Annotated[int, typer.Option("--gpus", help="GPUs of a node.")]
Memory = Annotated[str, typer.Option("--memory", help="Memory of a node, e.g. 64G.")]
ObjectStore = Annotated[
    str | None, typer.Option("--object-store", help="Ray's shared memory on a node; default: an eighth of --memory.")
]
Time = Annotated[str, typer.Option("--time", help="Time limit, HH:MM:SS or D-HH:MM:SS.")]
LogDirectory = Annotated[str, typer.Option("--log-directory", help="Where logs go.")]
Port = Annotated[int | None, typer.Option("--port", help="Of Ray's head; default: chosen for you.")]
WorkerPorts = Annotated[
    str | None, typer.Option("--worker-ports", help="LOW-HIGH, where a firewall asks for it; default: any free ones.")
]
Restarts = Annotated[int, typer.Option("--restarts", help="Times it starts again by itself and resumes.")]
StartDeadline = Annotated[int, typer.Option("--start-deadline", help="Seconds all nodes have for joining.")]
To = Annotated[Path | None, typer.Option("--to", help="Write this file; default: standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file of --to.")]


@cluster_app.command()
def slurm(
    output: Output,
    arguments: Arguments = None,
    name: Name = "skysom",
    nodes: Nodes = 2,
    cpus: Cpus = 8,
    gpus: Gpus = 0,
    memory: Memory = "32G",
    object_store: ObjectStore = None,
    time: Time = "24:00:00",
    partition: Annotated[str | None, typer.Option("--partition", "-p", help="Queue of your site.")] = None,
    account: Annotated[str | None, typer.Option("--account", "-A", help="Account that pays.")] = None,
    qos: Annotated[str | None, typer.Option("--qos", help="Quality of service.")] = None,
    constraint: Annotated[str | None, typer.Option("--constraint", help="Features of nodes, e.g. a100.")] = None,
    module: Annotated[list[str] | None, typer.Option("--module", help="A module to load; repeatable.")] = None,
    environment: Annotated[
        str | None, typer.Option("--environment", help="Virtual environment with skysom, seen by every node.")
    ] = None,
    container: Annotated[str | None, typer.Option("--container", help="Or an apptainer image with skysom.")] = None,
    temporary: Annotated[str, typer.Option("--temporary", help="Short directory on each node's own disk.")] = "/tmp",
    log_directory: LogDirectory = "skysom-logs",
    port: Port = None,
    worker_ports: WorkerPorts = None,
    restarts: Restarts = 3,
    start_deadline: StartDeadline = 600,
    to: To = None,
    overwrite: Overwrite = False,
) -> None:
    """A job script for sbatch: head, workers and the run in one job.

    Example: skysom cluster slurm --nodes 4 --gpus 1 --memory 64G --time 2-00:00:00 --partition gpu
    --environment /home/me/skysom-env --output /scratch/me/vlass --to job.sh -- --images /scratch/me/fits
    --catalogue /scratch/me/sources.csv --preset vlass
    """
    from skysom.cluster.launch import ClusterPlan
    from skysom.cluster.launch_slurm import SlurmOptions, render_slurm

    plan = ClusterPlan(
        output, _arguments(arguments), name, nodes, cpus, gpus, memory, object_store, time, log_directory, port,
        _ports(worker_ports), restarts, start_deadline,
    )  # fmt: skip
    options = SlurmOptions(
        partition, account, qos, constraint, tuple(module or ()), environment, container, temporary
    )  # fmt: skip
    _deliver(plan, render_slurm(plan, options), to, overwrite, f"mkdir -p {log_directory} && sbatch {to}")


@cluster_app.command()
def kuberay(
    output: Output,
    image: Annotated[str, typer.Option("--image", help="Image with skysom; the file says how to make it.")],
    arguments: Arguments = None,
    name: Name = "skysom",
    kind: Annotated[
        Literal["job", "cluster"], typer.Option("--kind", help="job: runs and goes; cluster: stays.")
    ] = "job",
    nodes: Nodes = 2,
    cpus: Cpus = 8,
    gpus: Gpus = 0,
    memory: Memory = "32G",
    object_store: ObjectStore = None,
    time: Time = "24:00:00",
    namespace: Annotated[str, typer.Option("--namespace", help="Of Kubernetes.")] = "default",
    image_pull: Annotated[
        Literal["IfNotPresent", "Always", "Never"], typer.Option("--image-pull", help="When the image is fetched.")
    ] = "IfNotPresent",
    image_pull_secret: Annotated[
        str | None, typer.Option("--image-pull-secret", help="Secret of the registry.")
    ] = None,
    claim: Annotated[str | None, typer.Option("--claim", help="Persistent volume claim with the data.")] = None,
    mount: Annotated[str, typer.Option("--mount", help="Where the claim is seen.")] = "/data",
    secret: Annotated[
        str | None, typer.Option("--secret", help="Secret with the object store's keys (AWS_ACCESS_KEY_ID, ...).")
    ] = None,
    head_cpus: Annotated[int, typer.Option("--head-cpus", help="CPUs of the head pod, beside --nodes.")] = 2,
    head_memory: Annotated[str, typer.Option("--head-memory", help="Memory of the head pod.")] = "8G",
    port: Port = None,
    worker_ports: WorkerPorts = None,
    restarts: Restarts = 3,
    to: To = None,
    overwrite: Overwrite = False,
) -> None:
    """A RayJob (or RayCluster) for the KubeRay operator.

    Example: skysom cluster kuberay --image registry.org/me/skysom:1 --nodes 8 --gpus 1 --namespace astro
    --secret s3-keys --output s3://survey/vlass --to vlass.yaml -- --images s3://survey/fits
    --catalogue s3://survey/sources.parquet --preset vlass
    """
    from importlib.metadata import version

    from skysom.cluster.launch import ClusterPlan
    from skysom.cluster.launch_kuberay import KubeRayOptions, render_kuberay

    plan = ClusterPlan(
        output, _arguments(arguments), name, nodes, cpus, gpus, memory, object_store, time, port=port,
        worker_ports=_ports(worker_ports), restarts=restarts,
    )  # fmt: skip
    options = KubeRayOptions(
        image, version("ray"), "RayJob" if kind == "job" else "RayCluster", namespace, image_pull, image_pull_secret,
        claim, mount, secret, head_cpus, head_memory,
    )  # fmt: skip
    _deliver(plan, render_kuberay(plan, options), to, overwrite, f"kubectl apply -f {to}")


@cluster_app.command("ray-up")
def ray_up(
    output: Output,
    arguments: Arguments = None,
    name: Name = "skysom",
    host: Annotated[list[str] | None, typer.Option("--host", help="A machine; repeatable, the head first.")] = None,
    provider: Annotated[Literal["local", "aws"], typer.Option("--provider", help="Your machines, or AWS.")] = "local",
    nodes: Annotated[int | None, typer.Option("--nodes", "-n", help="Workers on AWS; default: 2.")] = None,
    cpus: Cpus = 8,
    gpus: Gpus = 0,
    memory: Memory = "32G",
    object_store: ObjectStore = None,
    ssh_user: Annotated[str, typer.Option("--ssh-user", help="Who logs in to the nodes.")] = "ubuntu",
    ssh_key: Annotated[str | None, typer.Option("--ssh-key", help="Private key on this machine.")] = None,
    project: Annotated[
        Path,
        typer.Option("--project", help="Folder of skysom's sources here; installed on each node by its lock file."),
    ] = Path(),
    region: Annotated[str, typer.Option("--region", help="Of AWS.")] = "us-west-2",
    head_type: Annotated[str, typer.Option("--head-type", help="Instance of the head on AWS.")] = "m5.large",
    worker_type: Annotated[str, typer.Option("--worker-type", help="Instance of a worker on AWS.")] = "m5.2xlarge",
    instance_profile: Annotated[
        str | None, typer.Option("--instance-profile", help="Of AWS; lets the instances reach the object store.")
    ] = None,
    log_directory: LogDirectory = "skysom-logs",
    port: Port = None,
    worker_ports: WorkerPorts = None,
    to: To = None,
    overwrite: Overwrite = False,
) -> None:
    """A YAML for ray up: machines of your own by ssh, or AWS.

    Example: skysom cluster ray-up --host gpu1 --host gpu2 --gpus 2 --ssh-user me --output /shared/me/vlass
    --to boxes.yaml -- --images /shared/me/fits --catalogue /shared/me/sources.csv --preset vlass
    """
    from skysom.cluster.errors import LaunchError
    from skysom.cluster.launch import ClusterPlan
    from skysom.cluster.launch_ray_up import RayUpOptions, render_ray_up

    project = project.resolve()
    if not (project / "constraints.txt").is_file():
        raise LaunchError(f"--project {project} has no constraints.txt; give the folder of skysom's sources")
    hosts = tuple(host or ())
    plan = ClusterPlan(
        output, _arguments(arguments), name, (len(hosts) or 2) if nodes is None else nodes, cpus, gpus, memory,
        object_store, log_directory=log_directory, port=port, worker_ports=_ports(worker_ports),
    )  # fmt: skip
    options = RayUpOptions(
        str(project), hosts, provider, ssh_user, ssh_key, region, head_type, worker_type, instance_profile
    )
    _deliver(plan, render_ray_up(plan, options), to, overwrite, f"ray up {to}")


def _arguments(given: list[str] | None) -> tuple[str, ...]:
    """Arguments of `skysom run`, refused here rather than after a night in the queue where it does not know them."""
    from skysom.cluster.errors import LaunchError
    from skysom.jobs.cli import app

    arguments = tuple(given or ())
    if "--help" in arguments:
        raise LaunchError("--help after -- belongs to skysom run; see skysom run --help")
    if any(argument.partition("=")[0] in ("--redo", "--print-config") for argument in arguments):
        raise LaunchError(
            "--redo would discard the results anew whenever the file starts again, and --print-config computes "
            "nothing; give them to a `skysom run` of your own, and leave them out after --"
        )
    run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    try:
        run.make_context("skysom run", ["--output", "somewhere", *arguments])
    except Exception as error:  # typer's own copy of click is private, and with it the class
        if not hasattr(error, "format_message"):
            raise
        raise LaunchError(
            f"skysom run refuses its arguments: {error.format_message()}; see skysom run --help"
        ) from error
    return arguments


def _ports(text: str | None) -> tuple[int, int] | None:
    from skysom.cluster.launch import matches

    if text is None:
        return None
    matches("--worker-ports", text, r"\d{1,5}-\d{1,5}", "LOW-HIGH, as in 20000-21000")
    low, high = text.split("-")
    return int(low), int(high)


def _deliver(plan: "ClusterPlan", text: str, to: Path | None, overwrite: bool, following: str) -> None:
    """Print the file, or write it as a whole, and say what comes next."""
    from skysom.cluster.errors import LaunchError
    from skysom.storage.place import write_atomically

    if to is None:
        typer.echo(text, nl=not text.endswith("\n"))
        return
    if to.exists() and not overwrite:
        raise LaunchError(
            f"{to} is there already, perhaps with your edits; give --overwrite to replace it, or another --to"
        )
    write_atomically(to, text.encode())
    typer.echo(f"wrote {to}: {plan.nodes} nodes for {plan.shell_command}\nlook at its first lines, then: {following}")

"""The YAML for KubeRay: a RayJob that runs skysom and goes, or a RayCluster that stays.

Fields: KubeRay's API reference of ray.io/v1 (RayJobSpec, RayClusterSpec, HeadGroupSpec, WorkerGroupSpec, AuthOptions).
"""

import json
import textwrap
from dataclasses import dataclass
from typing import Literal

from skysom.cluster.errors import LaunchError
from skysom.cluster.launch import ClusterPlan, absolute, matches, quoted, seconds, size_bytes

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_LABEL_WORDS = "lower-case letters, digits and '-', as in vlass"
_RAY_TOKENS_SINCE = (2, 52)


@dataclass(frozen=True)
class KubeRayOptions:
    """What only Kubernetes needs.

    image: has skysom and Ray's dashboard (ray[default]), made from the lock file; ray_version: Ray's version in it;
    claim: a persistent volume claim, mounted at mount; secret: its keys become environment variables (credentials of
    an object store); head_cpus, head_memory: of the head pod, which computes nothing. Raises LaunchError for what
    cannot be written.
    """

    image: str
    ray_version: str
    kind: Literal["RayJob", "RayCluster"] = "RayJob"
    namespace: str = "default"
    image_pull: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    image_pull_secret: str | None = None
    claim: str | None = None
    mount: str = "/data"
    secret: str | None = None
    head_cpus: int = 2
    head_memory: str = "8G"

    def __post_init__(self) -> None:
        """Refuse what cannot be written."""
        matches(
            "--image", self.image, r"[A-Za-z0-9][A-Za-z0-9._:/@-]*", "an image's name, as in registry.org/me/skysom:1"
        )
        matches("--namespace", self.namespace, _LABEL, _LABEL_WORDS)
        version = matches("the version of Ray", self.ray_version, r"\d+\.\d+\.\d+[a-z0-9.]*", "one such as 2.60.0")
        if tuple(int(part) for part in version.split(".")[:2]) < _RAY_TOKENS_SINCE:
            raise LaunchError(f"Ray {version} knows no tokens; give an image with Ray 2.52 or newer")
        for option, value in (
            ("--image-pull-secret", self.image_pull_secret), ("--claim", self.claim), ("--secret", self.secret),
        ):  # fmt: skip
            if value is not None:
                matches(option, value, r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", _LABEL_WORDS)
        absolute("--mount", self.mount)
        if self.head_cpus < 1:
            raise LaunchError(f"--head-cpus is {self.head_cpus}; give 1 or more")
        size_bytes("--head-memory", self.head_memory)


def render_kuberay(plan: ClusterPlan, options: KubeRayOptions) -> str:
    """YAML for `kubectl apply -f`. Raises LaunchError where plan and options do not go together on Kubernetes."""
    _check(plan, options)
    cluster = _cluster(plan, options)
    metadata = f"metadata:\n  name: {quoted(plan.name)}\n  namespace: {quoted(options.namespace)}\n"
    if options.kind == "RayCluster":
        body = "spec:\n" + textwrap.indent(cluster, "  ")
    else:
        body = _JOB.format(
            entrypoint=quoted(plan.shell_command), walltime_s=seconds(plan.walltime), restarts=plan.restarts
        ) + textwrap.indent(cluster, "    ")
    return f"{_head(plan, options)}apiVersion: ray.io/v1\nkind: {options.kind}\n{metadata}{body}"


def _check(plan: ClusterPlan, options: KubeRayOptions) -> None:
    longest = 47 if options.kind == "RayJob" else 63  # KubeRay appends its own words to a job's name
    matches("--name", plan.name, _LABEL, _LABEL_WORDS)
    if len(plan.name) > longest:
        raise LaunchError(f"--name has {len(plan.name)} letters; give at most {longest}")
    under = (options.mount.rstrip("/") + "/", "file://" + options.mount.rstrip("/") + "/")
    if plan.output.startswith(("/", "file:")) and not (options.claim and (plan.output + "/").startswith(under)):
        raise LaunchError(
            f"--output {plan.output} is lost with its pod; give a URL, or --claim NAME and a path below --mount "
            f"{options.mount}"
        )
    for argument in (plan.output, *plan.arguments):
        if "$(" in argument or "$$" in argument:
            raise LaunchError(
                f"{argument!r} holds $( or $$, which Kubernetes replaces; put it into a file for --config"
            )


def _head(plan: ClusterPlan, options: KubeRayOptions) -> str:
    """The comments one reads first. Every value in them is printable, so none ends its line."""
    run = {
        "RayJob": f"#     kubectl logs -n {options.namespace} -f job/{plan.name}      # what skysom says",
        "RayCluster": (
            f"#     kubectl exec -n {options.namespace} -it svc/{plan.name}-head-svc -- \\\n"
            f"#         {plan.shell_command}"
        ),
    }[options.kind]
    return f"""\
# A Ray cluster for skysom on Kubernetes, by the KubeRay operator (1.5.1 or newer: it makes the cluster's token).
#     kubectl apply -f THIS_FILE
{run}
# Edit: image, replicas, cpu, memory, nvidia.com/gpu; add nodeSelector and tolerations where GPU nodes ask for them.
# The image comes from the lock file, three lines in skysom's sources:
#     FROM rayproject/ray:{options.ray_version}-py311{"-gpu" if plan.gpus_per_node else ""}
#     COPY --chown=ray . /home/ray/skysom
#     RUN pip install /home/ray/skysom --constraint /home/ray/skysom/constraints.txt
"""


_JOB = """\
spec:
  entrypoint: {entrypoint}
  submissionMode: K8sJobMode
  shutdownAfterJobFinishes: true  # the pods go; the results stay
  ttlSecondsAfterFinished: 600
  activeDeadlineSeconds: {walltime_s}  # the whole time this may take, restarts included
  backoffLimit: {restarts}  # fresh clusters after a failure: the same command resumes
  rayClusterSpec:
"""


def _cluster(plan: ClusterPlan, options: KubeRayOptions) -> str:
    """A RayClusterSpec."""
    workers = {
        "num-cpus": str(plan.cpus_per_node),
        "num-gpus": str(plan.gpus_per_node),
        "object-store-memory": str(plan.object_store_bytes),
    }
    head_store = min(plan.object_store_bytes, size_bytes("--head-memory", options.head_memory) // 4)
    head = {"num-cpus": "0", "num-gpus": "0", "object-store-memory": str(head_store), "dashboard-host": "0.0.0.0"}
    if plan.port is not None:
        head["port"] = str(plan.port)
    if plan.worker_ports is not None:
        ports = {"min-worker-port": str(plan.worker_ports[0]), "max-worker-port": str(plan.worker_ports[1])}
        head, workers = head | ports, workers | ports
    return f"""\
rayVersion: {quoted(options.ray_version)}  # of Ray in the image
authOptions:
  mode: token  # only pods of this cluster join, and only who has its secret asks it
headGroupSpec:
  serviceType: ClusterIP  # never a public one
  rayStartParams: {json.dumps(head)}
  template:
    spec:
{textwrap.indent(_pod("ray-head", options.head_cpus, options.head_memory, 0, options), "      ")}\
workerGroupSpecs:
  - groupName: workers
    replicas: {plan.nodes}  # may change while it runs: skysom takes new pods in and does a lost pod's shards elsewhere
    minReplicas: 1
    maxReplicas: {plan.nodes}
    rayStartParams: {json.dumps(workers)}
    template:
      spec:
{textwrap.indent(_pod("ray-worker", plan.cpus_per_node, plan.memory, plan.gpus_per_node, options), "        ")}"""


def _pod(name: str, cpus: int, memory: str, gpus: int, options: KubeRayOptions) -> str:
    """A PodSpec; requests equal limits, so the pod is the last to be put out."""
    resources = {"cpu": str(cpus), "memory": memory + "i"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    lines = [
        "containers:",
        f"  - name: {name}",
        f"    image: {quoted(options.image)}",
        f"    imagePullPolicy: {options.image_pull}",
        "    resources:",
        f"      requests: {json.dumps(resources)}",
        f"      limits: {json.dumps(resources)}",
        "    env:",
        '      - {name: RAY_USAGE_STATS_ENABLED, value: "0"}',
    ]
    if options.secret is not None:
        lines += [
            "    envFrom:  # credentials stay in the secret",
            f"      - secretRef: {{name: {quoted(options.secret)}}}",
        ]
    if options.claim is not None:
        lines += [
            "    volumeMounts:",
            f"      - {{name: data, mountPath: {quoted(options.mount)}}}",
            "volumes:",
            f"  - {{name: data, persistentVolumeClaim: {{claimName: {quoted(options.claim)}}}}}  # ReadWriteMany",
        ]
    if options.image_pull_secret is not None:
        lines += ["imagePullSecrets:", f"  - {{name: {quoted(options.image_pull_secret)}}}"]
    return "\n".join(lines) + "\n"

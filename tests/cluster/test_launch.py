"""Cluster files: what is refused, what bash and YAML make of them, and the SLURM script really run."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from skysom.cluster.errors import LaunchError
from skysom.cluster.launch import ClusterPlan, seconds, size_bytes
from skysom.cluster.launch_kuberay import KubeRayOptions, render_kuberay
from skysom.cluster.launch_ray_up import RayUpOptions, render_ray_up
from skysom.cluster.launch_slurm import SlurmOptions, render_slurm

_spec = importlib.util.spec_from_file_location("slurm_stubs", Path(__file__).with_name("slurm_stubs.py"))
slurm_stubs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(slurm_stubs)

PLAN = ClusterPlan("s3://survey/run", ("--images", "s3://survey/fits", "--preset", "vlass"))
FULL = ClusterPlan(
    "/shared/run",
    ("--images", "/shared/a b"),
    "vlass",
    4,
    16,
    2,
    "256G",
    "8G",
    "2-00:00:00",
    "logs",
    20500,
    (21000, 22000),
)
KUBE = KubeRayOptions("registry.org/me/skysom:1", "2.60.0")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"nodes": 0}, "--nodes is 0; give 1"), ({"cpus_per_node": 0}, "--cpus"), ({"gpus_per_node": -1}, "--gpus"),
        ({"memory": "64"}, "as in 64G"), ({"memory": "64Gi"}, "as in 64G"), ({"memory": "0G"}, "as in 64G"),
        ({"object_store": "64G"}, "less than --memory"), ({"object_store": "10M"}, "100M or more"),
        ({"walltime": "24"}, "HH:MM:SS"), ({"walltime": "1-24:00:00"}, "HH:MM:SS"),
        ({"walltime": "00:00:30"}, "a minute"),
        ({"walltime": "1:60:00"}, "HH:MM:SS"), ({"port": 80}, "1024 to 65535"), ({"port": 70000}, "1024 to 65535"),
        ({"worker_ports": (21000, 20000)}, "LOW-HIGH"), ({"worker_ports": (20000, 20004)}, "for 8 CPUs"),
        ({"worker_ports": (20000, 21000), "port": 20500}, "give one outside"), ({"name": "a b"}, "--name"),
        ({"name": ""}, "--name"), ({"name": "a\n#SBATCH --wrap=x"}, "--name"), ({"output": "run"}, "s3://bucket/run"),
        ({"output": "~/run"}, "whole path"), ({"output": "/a\nb"}, "one line"), ({"arguments": ("a\nb",)}, "one line"),
        ({"arguments": ("--ray-address=x",)}, "leave it out"), ({"arguments": ("-o", "x")}, "leave it out"),
        ({"log_directory": "a\x1b[0m"}, "one line"), ({"restarts": -1}, "--restarts"),
        ({"start_deadline_s": 1}, "10 or more"),
    ],
)  # fmt: skip
def test_what_no_file_can_carry_is_refused(wrong, says):
    with pytest.raises(LaunchError, match=re.escape(says)):
        ClusterPlan(**({"output": "/run"} | wrong))


def test_sizes_and_times():
    assert size_bytes("--memory", "64G") == 64 * 2**30
    assert seconds("2-03:04:05") == ((2 * 24 + 3) * 60 + 4) * 60 + 5
    assert seconds("100:00:00") == 360000
    assert PLAN.object_store_bytes == 4 * 2**30
    assert ClusterPlan("/run", memory="512M").object_store_bytes == 100 * 2**20


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (SlurmOptions, {"partition": "a b"}), (SlurmOptions, {"account": "a\n"}), (SlurmOptions, {"qos": "-x"}),
        (SlurmOptions, {"constraint": "$(x)"}), (SlurmOptions, {"modules": ("a;b",)}),
        (SlurmOptions, {"environment": "env"}),
        (SlurmOptions, {"environment": "/env", "container": "x.sif"}), (SlurmOptions, {"temporary": "/" + 40 * "a"}),
        (KubeRayOptions, {"image": "a b", "ray_version": "2.60.0"}),
        (KubeRayOptions, {"image": "a", "ray_version": "2.9.0"}),
        (KubeRayOptions, {"image": "a", "ray_version": "2.60.0", "namespace": "A"}),
        (KubeRayOptions, {"image": "a", "ray_version": "2.60.0", "secret": "a: b"}),
        (RayUpOptions, {"project": "/p"}), (RayUpOptions, {"project": "p", "hosts": ("a",)}),
        (RayUpOptions, {"project": "/p", "hosts": ("a", "a")}),
        (RayUpOptions, {"project": "/p", "hosts": ("-oProxy",)}),
        (RayUpOptions, {"project": "/p", "hosts": ("a",), "provider": "aws"}),
        (RayUpOptions, {"project": "/p", "hosts": ("a",), "ssh_user": "a b"}),
    ],
)  # fmt: skip
def test_options_are_refused(options, wrong):
    with pytest.raises(LaunchError, match=r"; give|; leave"):
        options(**wrong)


@pytest.mark.parametrize("logs", ["a b", "~/logs", "-x", "a'b", "logs%j", "a\\b"])
def test_sbatch_lines_hold_no_value_that_needs_quotes(logs):
    with pytest.raises(LaunchError, match="--log-directory"):
        render_slurm(ClusterPlan("/run", log_directory=logs), SlurmOptions())


SCRIPTS = {
    "plain": (PLAN, SlurmOptions()),
    "venv": (FULL, SlurmOptions("gpu", "ast01", "long", "a100|h100", ("python/3.11", "cuda/12"), "/home/m e/env")),
    "container": (FULL, SlurmOptions(container="sky som.sif", temporary="/local")),
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_the_script_is_shell(case, tmp_path):
    text = render_slurm(*SCRIPTS[case])
    (tmp_path / "job.sh").write_text(text)
    subprocess.run(["bash", "-n", str(tmp_path / "job.sh")], check=True, timeout=30)
    code = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert text.index("#SBATCH") < text.index(code[0])  # sbatch stops reading at the first command
    assert not re.search(r"^#SBATCH", text[text.index(code[0]) :], re.MULTILINE)


@pytest.mark.parametrize("case", SCRIPTS)
def test_shellcheck_finds_nothing(case, tmp_path):
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    (tmp_path / "job.sh").write_text(render_slurm(*SCRIPTS[case]))
    found = subprocess.run(
        [program, "--severity=warning", "--exclude=SC1090,SC1091", str(tmp_path / "job.sh")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout


def test_directives_say_what_the_plan_says():
    lines = render_slurm(*SCRIPTS["venv"]).splitlines()
    given_ = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert given_ >= {
        "--nodes=4", "--cpus-per-task=16", "--gpus-per-node=2", "--mem=256G", "--time=2-00:00:00", "--partition=gpu",
        "--account=ast01", "--qos=long", "--constraint=a100|h100", "--job-name=vlass", "--output=logs/%x-%j.out",
        "--requeue", "--signal=B:USR1@120",
    }  # fmt: skip


weird = st.text(st.sampled_from(list("ab $`\"'\\(){};&|<>*?~#!%=-\n\t:,[]é\u2028😀")), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(weird, weird, weird)
def test_no_value_breaks_out_of_the_script(argument, place, image):
    """What bash reads is what was given, or it was refused."""
    values = {"output": "/" + place, "arguments": (argument,)}
    try:
        plan, options = ClusterPlan(**values), SlurmOptions(container=image)
    except LaunchError:
        assert not all(value.isprintable() for value in (argument, place, image)) or argument.startswith(("-o", "--"))
        return
    text = render_slurm(plan, options)
    edit = text[text.index("command=(") : text.index("# ---- Nothing to edit below")]
    program = edit + 'printf \'%s\\0\' "${command[@]}" "${inside[@]}" "$log_directory" "$temporary"'
    read = subprocess.run(["bash", "-c", program], capture_output=True, check=True, timeout=30)
    assert read.stderr == b""
    expected = (*plan.command, "apptainer", "exec", image, "skysom-logs", "/tmp")
    assert tuple(read.stdout.decode().split("\0")[:-1]) == expected


@settings(max_examples=60, deadline=None)
@given(weird, weird)
def test_no_value_breaks_out_of_the_yaml(argument, place):
    try:
        plan = ClusterPlan("s3://" + place, (argument,), log_directory=place)
        files = [render_kuberay(plan, KUBE), render_ray_up(plan, RayUpOptions("/" + place, ("a", "b")))]
    except LaunchError:
        return
    job, up = (yaml.safe_load(text) for text in files)
    assert tuple(shlex.split(job["spec"]["entrypoint"])) == plan.command
    jsonschema.validate(job, RAY_JOB)
    assert up["file_mounts"]["~/skysom"] == "/" + place
    command = next(line for line in files[1].splitlines() if line.startswith("#     ray exec"))
    remote = shlex.split(command.removeprefix("#     "))[-1]
    run = shlex.split(remote)
    assert tuple(run[run.index("skysom") : run.index(">>")]) == plan.command


# --- KubeRay: the fields of ray.io/v1 we write, and all those beside them -----------------------------------------

STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
RESOURCES = {
    "type": "object", "additionalProperties": False,
    "properties": {"requests": STRINGS, "limits": STRINGS, "claims": {"type": "array"}},
}  # fmt: skip
CONTAINER = {
    "type": "object", "additionalProperties": False, "required": ["name", "image", "resources"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9-]+$"}, "image": {"type": "string"},
        "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]}, "resources": RESOURCES,
        "env": {"type": "array", "items": {
            "type": "object", "required": ["name", "value"], "additionalProperties": False,
            "properties": {"name": {"type": "string"}, "value": {"type": "string"}}}},
        "envFrom": {"type": "array", "items": {
            "type": "object", "additionalProperties": False, "properties": {"secretRef": {
                "type": "object", "required": ["name"], "additionalProperties": False,
                "properties": {"name": {"type": "string"}, "optional": {"type": "boolean"}}}}}},
        "volumeMounts": {"type": "array", "items": {
            "type": "object", "required": ["name", "mountPath"], "additionalProperties": False,
            "properties": {"name": {"type": "string"}, "mountPath": {"type": "string", "pattern": "^/"}}}},
    },
}  # fmt: skip
POD = {
    "type": "object", "required": ["spec"], "additionalProperties": False,
    "properties": {"metadata": {"type": "object"}, "spec": {
        "type": "object", "required": ["containers"], "additionalProperties": False,
        "properties": {
            "containers": {"type": "array", "items": CONTAINER, "minItems": 1},
            "volumes": {"type": "array", "items": {
                "type": "object", "required": ["name", "persistentVolumeClaim"], "additionalProperties": False,
                "properties": {"name": {"type": "string"}, "persistentVolumeClaim": {
                    "type": "object", "required": ["claimName"], "additionalProperties": False,
                    "properties": {"claimName": {"type": "string"}, "readOnly": {"type": "boolean"}}}}}},
            "imagePullSecrets": {"type": "array", "items": {
                "type": "object", "additionalProperties": False, "properties": {"name": {"type": "string"}}}},
        }}},
}  # fmt: skip
COUNT = {"type": "integer", "minimum": 0}
RAY_CLUSTER_SPEC = {
    "type": "object", "required": ["headGroupSpec"], "additionalProperties": False,
    "properties": {
        "rayVersion": {"type": "string"}, "suspend": {"type": "boolean"}, "managedBy": {"type": "string"},
        "enableInTreeAutoscaling": {"type": "boolean"}, "autoscalerOptions": {"type": "object"},
        "headServiceAnnotations": STRINGS, "gcsFaultToleranceOptions": {"type": "object"},
        "upgradeStrategy": {"type": "object"},
        "authOptions": {"type": "object", "additionalProperties": False, "properties": {
            "mode": {"enum": ["disabled", "token"]}, "secretName": {"type": "string"},
            "enableK8sTokenAuth": {"type": "boolean"}}},
        "headGroupSpec": {
            "type": "object", "required": ["template"], "additionalProperties": False,
            "properties": {
                "serviceType": {"enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]},
                "headService": {"type": "object"}, "enableIngress": {"type": "boolean"}, "resources": STRINGS,
                "labels": STRINGS, "rayStartParams": STRINGS, "template": POD}},
        "workerGroupSpecs": {"type": "array", "items": {
            "type": "object", "required": ["groupName", "minReplicas", "maxReplicas", "template"],
            "additionalProperties": False,
            "properties": {
                "groupName": {"type": "string"}, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT,
                "numOfHosts": COUNT, "idleTimeoutSeconds": COUNT, "suspend": {"type": "boolean"}, "resources": STRINGS,
                "labels": STRINGS, "rayStartParams": STRINGS, "template": POD, "scaleStrategy": {"type": "object"}}}},
    },
}  # fmt: skip
METADATA = {
    "type": "object", "required": ["name"], "additionalProperties": False,
    "properties": {"name": {"type": "string", "maxLength": 63}, "namespace": {"type": "string"}, "labels": STRINGS},
}  # fmt: skip


def _resource(kind, spec):
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object", "required": ["apiVersion", "kind", "metadata", "spec"], "additionalProperties": False,
        "properties": {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": METADATA,
                       "spec": spec},
    }  # fmt: skip


RAY_CLUSTER = _resource("RayCluster", RAY_CLUSTER_SPEC)
RAY_JOB = _resource("RayJob", {
    "type": "object", "required": ["rayClusterSpec", "entrypoint"], "additionalProperties": False,
    "properties": {
        "entrypoint": {"type": "string"}, "rayClusterSpec": RAY_CLUSTER_SPEC, "activeDeadlineSeconds": COUNT,
        "backoffLimit": COUNT, "ttlSecondsAfterFinished": COUNT, "shutdownAfterJobFinishes": {"type": "boolean"},
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        "suspend": {"type": "boolean"}, "runtimeEnvYAML": {"type": "string"}, "jobId": {"type": "string"},
        "metadata": STRINGS, "clusterSelector": STRINGS, "submitterPodTemplate": {"type": "object"},
        "submitterConfig": {"type": "object"}, "deletionStrategy": {"type": "object"}, "managedBy": {"type": "string"},
        "entrypointNumCpus": {"type": "number"}, "entrypointNumGpus": {"type": "number"},
        "entrypointResources": {"type": "string"}, "preRunningDeadlineSeconds": COUNT,
    },
})  # fmt: skip


def test_kuberay_fits_the_schema_of_its_resources():
    options = KubeRayOptions(
        "registry.org/me/skysom:1",
        "2.60.0",
        "RayCluster",
        "astro",
        "Always",
        "registry",
        "survey",
        "/shared",
        "s3-keys",
    )
    cluster = yaml.safe_load(render_kuberay(FULL, options))
    jsonschema.validate(cluster, RAY_CLUSTER)
    job = yaml.safe_load(render_kuberay(PLAN, KUBE))
    jsonschema.validate(job, RAY_JOB)
    assert (
        job["spec"]["entrypoint"]
        == "skysom run --output s3://survey/run --images s3://survey/fits --preset vlass --ray-address auto"
    )
    assert job["spec"]["activeDeadlineSeconds"] == 86400
    for spec in (cluster["spec"], job["spec"]["rayClusterSpec"]):
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    worker = cluster["spec"]["workerGroupSpecs"][0]
    assert (worker["replicas"], worker["maxReplicas"]) == (4, 4)
    assert worker["rayStartParams"] == {
        "num-cpus": "16", "num-gpus": "2", "object-store-memory": str(8 * 2**30), "min-worker-port": "21000",
        "max-worker-port": "22000",
    }  # fmt: skip
    container = worker["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"cpu": "16", "memory": "256Gi", "nvidia.com/gpu": "2"}
    assert container["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]
    assert container["volumeMounts"] == [{"name": "data", "mountPath": "/shared"}]


def test_kuberay_refuses_what_would_be_lost_or_replaced():
    with pytest.raises(LaunchError, match="lost with its pod"):
        render_kuberay(FULL, KUBE)
    with pytest.raises(LaunchError, match="Kubernetes replaces"):
        render_kuberay(ClusterPlan("s3://b/run", ("$(HOME)",)), KUBE)
    with pytest.raises(LaunchError, match="47"):
        render_kuberay(ClusterPlan("s3://b/run", name=50 * "a"), KUBE)


@pytest.mark.parametrize(
    ("plan", "options"),
    [
        (PLAN, RayUpOptions("/home/me/sky som", ("gpu1", "10.0.0.5"), ssh_key="~/.ssh/id")),
        (ClusterPlan("s3://b/run", nodes=1), RayUpOptions("/p", ("gpu1",))),
        (FULL, RayUpOptions("/p", provider="aws", worker_type="g5.2xlarge", instance_profile="survey")),
    ],
)
def test_ray_up_fits_rays_own_schema(plan, options):
    import ray.autoscaler

    config = yaml.safe_load(render_ray_up(plan, options))
    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    if options.provider == "local":
        assert [config["provider"]["head_ip"], *config["provider"]["worker_ips"]] == list(options.hosts)
        assert config["max_workers"] == len(options.hosts) - 1
    else:
        worker = config["available_node_types"]["worker"]
        assert worker["min_workers"] == worker["max_workers"] == config["max_workers"] == plan.nodes
        assert config["head_node_type"] in config["available_node_types"]
    for start in (config["head_start_ray_commands"][1], config["worker_start_ray_commands"][1]):
        subprocess.run(["bash", "-n", "-c", start], check=True, timeout=30)
        assert "RAY_AUTH_MODE=token" in start
    assert any("--constraint ~/skysom/constraints.txt" in command for command in config["setup_commands"])


def test_ray_up_wants_a_host_a_node():
    with pytest.raises(LaunchError, match="--nodes is 2 and 1 hosts"):
        render_ray_up(PLAN, RayUpOptions("/p", ("a",)))


# --- the SLURM script, run --------------------------------------------------------------------------------------


@pytest.fixture
def slurm(tmp_path):
    stubs = slurm_stubs.Slurm(tmp_path)
    yield stubs
    stubs.close()


def _script(nodes, command, **plan):
    """A job for this machine, its command edited as an astronomer would."""
    plan = ClusterPlan(
        "/run", nodes=nodes, cpus_per_node=1, memory="1G", object_store="100M", start_deadline_s=240, **plan
    )
    text = render_slurm(plan, SlurmOptions())
    return re.sub(r"^command=.*$", lambda _: f"command=({shlex.join(command)})", text, flags=re.MULTILINE)


def _address():
    import ray

    return ray.util.get_node_ip_address()


PROBE = """
import os, subprocess, sys, ray
ray.init(address="auto", log_to_driver=False, configure_logging=False)
nodes = [node for node in ray.nodes() if node["Alive"]]
assert len(nodes) == int(sys.argv[1]), nodes
assert ray.cluster_resources()["CPU"] == int(sys.argv[1]), ray.cluster_resources()
assert os.stat(os.environ["RAY_AUTH_TOKEN_PATH"]).st_mode & 0o77 == 0
stranger = "import ray; ray.init(address='auto', log_to_driver=False)"
refused = subprocess.run(
    [sys.executable, "-c", stranger], env=os.environ | {"RAY_AUTH_TOKEN": 64 * "0"}, capture_output=True, timeout=60
)
assert refused.returncode != 0 and b"AuthenticationError" in refused.stderr, refused

@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def place(number):
    import time
    time.sleep(0.5)
    return ray.get_runtime_context().get_node_id()

places = set(ray.get([place.remote(number) for number in range(4)], timeout=60))
open(sys.argv[2], "w").write(f"{len(nodes)} {len(places)}")
"""


@pytest.mark.slow
def test_the_script_makes_a_cluster_of_two_nodes_and_ends_it(slurm):
    (slurm.work / "probe.py").write_text(PROBE)
    script = _script(2, ["python", "probe.py", "2", "seen"])
    job = slurm.submit(script, os.getpid(), ("node0", "node1"), SKYSOM_HEAD_ADDRESS=_address())
    status = job.wait(290)
    said = slurm.output()
    assert status == 0, said
    assert (slurm.work / "seen").read_text() == "2 2"
    assert "all 2 nodes joined" in said
    assert "done" in said.splitlines()[-1]
    _nothing_is_left(slurm, ["node0", "node1"])


def _nothing_is_left(slurm, nodes):
    """Every step ended, no token, no temporary directory; the logs of each node are where they belong."""
    assert [node for node, _ in slurm.steps()] == nodes
    assert not any(slurm_stubs.alive(pid) for _, pid in slurm.steps())
    (logs,) = (slurm.work / "skysom-logs").iterdir()
    assert not (logs / "token").exists()
    for number in range(len(nodes)):
        assert (logs / f"node-{number}.log").read_text()
        assert (logs / f"node-{number}" / "raylet.out").exists()
        assert not Path(f"/tmp/sk{logs.name}-{number}").exists()


def test_at_the_time_limit_the_job_ends_in_order_and_queues_itself(slurm):
    (slurm.work / "wait.py").write_text("import pathlib, time; pathlib.Path('started').touch(); time.sleep(600)")
    job = slurm.submit(
        _script(1, ["python", "wait.py"]),
        os.getpid(),
        ("node0",),
        SKYSOM_HEAD_ADDRESS=_address(),
        SLURM_RESTART_COUNT="2",
    )
    end = time.monotonic() + 290
    while not (slurm.work / "started").exists() and job.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(110) == 75, slurm.output()
    assert (slurm.state / "requeued").read_text() == f"requeue {os.getpid()}\n"
    assert "queued again" in slurm.output()
    _nothing_is_left(slurm, ["node0"])


def test_a_head_that_does_not_start_is_said(slurm):
    slurm.program("ray", "#!/bin/bash\necho 'no such library' >&2\nexit 3\n")
    job = slurm.submit(_script(2, ["true"]), 77, ("node0", "node1"), SKYSOM_HEAD_ADDRESS="127.0.0.1")
    assert job.wait(60) == 1
    assert "Ray's head ended at once; look at" in slurm.output()
    assert "no such library" in (slurm.work / "skysom-logs/77-0/node-0.log").read_text()


def test_outside_a_job_the_script_says_so(tmp_path):
    (tmp_path / "job.sh").write_text(_script(1, ["true"]))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    found = subprocess.run(
        ["bash", "job.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30
    )
    assert found.returncode == 1
    assert "submit this file with sbatch" in found.stderr

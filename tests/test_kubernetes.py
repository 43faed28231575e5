"""deploy/kubernetes is what Kubernetes' schemas allow, and what the code wants."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from services.__main__ import PARTS
from shared.config import BusConfig, ProcessConfig, load
from tests.manifests import (
    DEPLOYMENTS,
    FOLDER,
    KEDA,
    LAYERS,
    SERVICES,
    Manifest,
    ScaledObject,
    documents,
    name_of,
    of_kind,
)
from tests.test_deploy import shipped_drafters
from tests.test_docs import CONFIGS, ROOT

EVERY = [
    pytest.param(manifest, id=f"{layer}, {name_of(manifest)}")
    for layer, manifests in LAYERS.items()
    for manifest in manifests
]
OURS = {"app.kubernetes.io/name": "quorum"}
# The oldest that is claimed, and the newest whose schemas are at hand.
VERSIONS = ("1.29", "1.37")


def pod_of(manifest: Manifest) -> Manifest | None:
    """Metadata and spec of the pods that the object makes, or is."""
    if manifest["kind"] == "Pod":
        return manifest
    template: Manifest | None = manifest["spec"].get("template") if "spec" in manifest else None
    return template


PODS = [
    pytest.param(pod, id=f"{layer}, {name_of(m)}")
    for layer, manifests in LAYERS.items()
    for m in manifests
    if (pod := pod_of(m))
]


def is_selected(selector: Manifest, pod: Manifest) -> bool:
    return selector.items() <= pod["metadata"]["labels"].items()


def validate(manifest: Manifest, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", EVERY)
def test_every_object_is_one_that_kubernetes_or_keda_knows(
    manifest: Manifest, version: str
) -> None:
    if (spec := KEDA.get(manifest["kind"])) is None:
        validate(manifest, version)
        return
    assert manifest["apiVersion"] == "keda.sh/v1alpha1"
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    read = spec.model_validate(manifest["spec"])
    if isinstance(read, ScaledObject) and read.advanced is not None:
        behavior = read.advanced.horizontalPodAutoscalerConfig.behavior
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}
        validate(
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "x"},
                "spec": {"maxReplicas": 1, "scaleTargetRef": target, "behavior": behavior},
            },
            version,
        )


def test_a_mistake_is_found() -> None:
    (wrong, *_) = documents(FOLDER / "base" / "voter.yaml")
    wrong["spec"]["template"]["spec"]["containers"][0]["readinessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinessprobe"):
        validate(wrong, VERSIONS[-1])


def test_every_file_is_used_and_no_object_is_there_twice() -> None:
    for folder in ("base", "autoscaled", "trial"):
        (given,) = documents(FOLDER / folder / "kustomization.yaml")
        files = {path.name for path in (FOLDER / folder).glob("*.yaml")} - {"kustomization.yaml"}
        assert files == {name for name in given["resources"] if name.endswith(".yaml")}
        names = [name_of(manifest) for manifest in LAYERS[folder]]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_has_no_right_that_it_does_not_need(pod: Manifest) -> None:
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    security = spec["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["runAsGroup"]) == (
        True, 10001, 10001,
    )  # fmt: skip
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
    assert not any("hostPath" in volume for volume in spec["volumes"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_deployment_replaces_its_pods_one_by_one_and_lets_them_drain(name: str) -> None:
    spec = DEPLOYMENTS[name]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    sleep = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
    waits_s = float(sleep[1]) if sleep else 0.0
    assert (waits_s > 0) == (name == "gateway")
    drain_s = load(ProcessConfig, environment(name)).drain_timeout_s
    assert pod["terminationGracePeriodSeconds"] > waits_s + drain_s
    (spread,) = pod["topologySpreadConstraints"]
    assert is_selected(spread["labelSelector"]["matchLabels"], spec["template"])


@pytest.mark.parametrize("name", SERVICES)
def test_probes_ask_what_the_monitor_answers(name: str) -> None:
    (container,) = DEPLOYMENTS[name]["spec"]["template"]["spec"]["containers"]
    process = load(ProcessConfig, environment(name))
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["monitor"] == process.monitor_port
    assert process.monitor_host == "0.0.0.0"
    asked = {
        probe: container[probe]["httpGet"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert {probe: get["port"] for probe, get in asked.items()} == dict.fromkeys(asked, "monitor")
    assert [get["path"] for get in asked.values()] == [
        *("/health/ready", "/health/ready", "/health/live")
    ]
    served = (ROOT / "shared" / "monitor.py").read_text()
    assert all(f'"{get["path"]}"' in served for get in asked.values())


def environment(name: str, layer: str = "base") -> dict[str, str]:
    """What the image, the settings and the deployment itself set."""
    image = (ROOT / "deploy" / "Dockerfile").read_text()
    found = dict(re.findall(r"\b(QUORUM_\w+)=(\w[\w.]*)", image))
    (container,) = of_kind(layer, "Deployment")[name]["spec"]["template"]["spec"]["containers"]
    for source in container["envFrom"]:
        found |= of_kind(layer, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    return found | {variable["name"]: variable["value"] for variable in container.get("env", ())}


@pytest.mark.parametrize("layer", ["base", "trial"])
@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_is_a_setting(name: str, layer: str, tmp_path: Path) -> None:
    variables = environment(name, layer)
    pod = of_kind(layer, "Deployment")[name]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    known = {
        cls.model_config["env_prefix"] + field.upper()
        for cls in CONFIGS
        for field in cls.model_fields
    }
    assert set(variables) <= known
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    for variable in {"BUS_PASSWORD_FILE", "BUS_CA_FILE"} & set(variables):
        file = Path(variables[variable])
        assert str(file.parent) == mounts["secrets"]
        assert file.name in {"redis-password", "ca.crt"}
        (tmp_path / file.name).touch()
        variables[variable] = str(tmp_path / file.name)
    part = PARTS[service_of(container)]
    for cls in (BusConfig, ProcessConfig, type(part.settings())):
        load(cls, variables)
    assert mounts["models"] == "/app/models"


def service_of(container: Manifest) -> str:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None
    named = re.fullmatch(rf"quorum-(\w+):{re.escape(version[1])}", container["image"])
    assert named is not None, container["image"]
    return named[1]


def test_every_service_and_draft_model_is_deployed() -> None:
    containers = [d["spec"]["template"]["spec"]["containers"][0] for d in DEPLOYMENTS.values()]
    assert {service_of(container) for container in containers} == set(PARTS)
    held = [m for n in SERVICES for m in environment(n).get("DRAFTER_MODELS", "").split(",") if m]
    assert sorted(held) == shipped_drafters()


def selectors(layer: str) -> Iterable[tuple[str, Manifest]]:
    """Of everything that is for pods of certain labels, but for all of the namespace's."""
    for manifest in LAYERS[layer]:
        spec: Any = manifest.get("spec", {})
        if manifest["kind"] == "Service":
            yield name_of(manifest), spec["selector"]
        elif selector := spec.get("selector") or spec.get("podSelector"):
            yield name_of(manifest), selector["matchLabels"]


@pytest.mark.parametrize("layer", ["base", "trial"])
def test_selectors_find_pods(layer: str) -> None:
    pods = {m["metadata"]["name"]: p for m in LAYERS[layer] if (p := pod_of(m))}
    for name, selector in selectors(layer):
        found = {pod for pod in pods if is_selected(selector, pods[pod])}
        assert found, name
        kind, _, own = name.partition(" ")
        if kind in ("Deployment", "StatefulSet", "PodDisruptionBudget", "Service"):
            assert found == {own}, name
    assert set(of_kind(layer, "PodDisruptionBudget")) == set(DEPLOYMENTS)
    for name, service in of_kind(layer, "Service").items():
        (container,) = pods[name]["spec"]["containers"]
        (port,) = service["spec"]["ports"]
        assert port["targetPort"] in {p["name"] for p in container["ports"]}


@pytest.mark.parametrize("layer", ["base", "trial"])
def test_only_the_gateway_is_reached_and_only_redis_and_dns_are(layer: str) -> None:
    policies = of_kind(layer, "NetworkPolicy")
    assert policies["nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    specs = [policy["spec"] for policy in policies.values()]
    rules = [(spec, rule) for spec in specs for rule in spec.get("ingress", ())]
    from_anywhere = [(spec, rule) for spec, rule in rules if "from" not in rule]
    assert [spec["podSelector"]["matchLabels"] for spec, _ in from_anywhere] == [
        {**OURS, "app.kubernetes.io/component": "gateway"}
    ]
    assert [rule["ports"] for _, rule in from_anywhere] == [[{"protocol": "TCP", "port": 8080}]]
    out = [rule for spec in specs for rule in spec.get("egress", ())]
    assert all(rule["to"] for rule in out)
    assert {port["port"] for rule in out for port in rule["ports"]} == {53, 6379}
    if layer == "trial":
        (inward,) = policies["from-quorum"]["spec"]["ingress"]
        assert inward["from"] == [{"podSelector": {"matchLabels": OURS}}]


def test_the_ingress_leads_to_the_gateway() -> None:
    (rule,) = LAYERS["ingress"][0]["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    target = path["backend"]["service"]
    ports = of_kind("base", "Service")[target["name"]]["spec"]["ports"]
    assert target["port"]["name"] in {port["name"] for port in ports}

"""deploy/kubernetes as data: what kustomize makes of a folder, and what KEDA's objects may hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

Manifest = dict[str, Any]
FOLDER = Path(__file__).parent.parent / "deploy" / "kubernetes"
HOST = r"^[\w.-]+:\d+$"
NUMBER = r"^\d+$"


def documents(file: Path) -> list[Manifest]:
    """The objects in a file, none sharing a part with another."""
    return [json.loads(json.dumps(document)) for document in yaml.safe_load_all(file.read_text())]


def build(folder: Path) -> list[Manifest]:
    """What `kubectl kustomize` prints, in no particular order, as far as our folders go: resources,
    a namespace for all, and patches that remove or replace."""
    (given,) = documents(folder / "kustomization.yaml")
    assert set(given) <= {"apiVersion", "kind", "namespace", "resources", "patches"}
    found: list[Manifest] = []
    for name in given["resources"]:
        found += build(folder / name) if (folder / name).is_dir() else documents(folder / name)
    for patch in given.get("patches", ()):
        targets = [m for m in found if _is_meant(patch["target"], m)]
        assert targets, patch
        for manifest in targets:
            _change(manifest, yaml.safe_load(patch["patch"]))
    for manifest in found:
        if manifest["kind"] != "Namespace":
            manifest["metadata"]["namespace"] = given["namespace"]
    return found


def _is_meant(target: Manifest, manifest: Manifest) -> bool:
    assert set(target) <= {"kind", "name"}
    names = (None, manifest["metadata"]["name"])
    return target["kind"] == manifest["kind"] and target.get("name") in names


def _change(manifest: Manifest, operations: list[Manifest]) -> None:
    for operation in operations:
        *parents, last = operation["path"].removeprefix("/").split("/")
        place: Any = manifest
        for part in parents:
            place = place[int(part) if isinstance(place, list) else part]
        assert last in place, operation
        if operation["op"] == "remove":
            del place[last]
        else:
            assert operation["op"] == "replace"
            place[last] = operation["value"]


LAYERS = {name: build(FOLDER / name) for name in ("base", "autoscaled", "trial")}
LAYERS["ingress"] = documents(FOLDER / "ingress.yaml")


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def of_kind(layer: str, kind: str) -> dict[str, Manifest]:
    return {m["metadata"]["name"]: m for m in LAYERS[layer] if m["kind"] == kind}


DEPLOYMENTS = of_kind("base", "Deployment")
SERVICES = sorted(DEPLOYMENTS)


class Part(BaseModel):
    """Refuses what it does not know, and converts nothing: KEDA's metadata are strings."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Named(Part):
    name: str


class StreamMetadata(Part):
    """Of redis-streams: by what waits for the group, or by what its consumers hold."""

    address: str = Field(pattern=HOST)
    enableTLS: Literal["true", "false"] = "false"
    stream: str
    consumerGroup: str
    lagCount: str | None = Field(None, pattern=NUMBER)
    activationLagCount: str | None = Field(None, pattern=NUMBER)
    pendingEntriesCount: str | None = Field(None, pattern=NUMBER)

    @model_validator(mode="after")
    def _has_one_measure(self) -> StreamMetadata:
        # Given both, KEDA takes the lag and says nothing.
        assert (self.lagCount is None) != (self.pendingEntriesCount is None)
        assert (self.lagCount is None) == (self.activationLagCount is None)
        return self


class StreamTrigger(Part):
    type: Literal["redis-streams"]
    metadata: StreamMetadata
    authenticationRef: Named
    metricType: Literal["AverageValue", "Value"] = "AverageValue"


class CpuMetadata(Part):
    value: str = Field(pattern=NUMBER)


class CpuTrigger(Part):
    type: Literal["cpu"]
    metadata: CpuMetadata
    metricType: Literal["Utilization", "AverageValue"]


class HorizontalPodAutoscalerConfig(Part):
    behavior: dict[str, Any]
    """Handed on to the HorizontalPodAutoscaler, whose schema Kubernetes has."""


class Advanced(Part):
    horizontalPodAutoscalerConfig: HorizontalPodAutoscalerConfig


class ScaledObject(Part):
    """The spec."""

    scaleTargetRef: Named
    pollingInterval: int = Field(30, ge=1)
    minReplicaCount: int = Field(0, ge=0)
    maxReplicaCount: int = Field(100, ge=1)
    advanced: Advanced | None = None
    triggers: list[Annotated[StreamTrigger | CpuTrigger, Field(discriminator="type")]] = Field(
        min_length=1
    )


class SecretKey(Part):
    parameter: Literal["username", "password", "ca", "cert", "key", "keyPassword"]
    name: str
    key: str


class TriggerAuthentication(Part):
    """The spec."""

    secretTargetRef: list[SecretKey] = Field(min_length=1)


KEDA: dict[str, type[Part]] = {
    "ScaledObject": ScaledObject,
    "TriggerAuthentication": TriggerAuthentication,
}

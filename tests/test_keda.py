"""KEDA scales what is there, by what the code leaves in Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from services.gateway.config import GatewayConfig
from services.recommender.config import RecommenderConfig
from services.verifier.config import VerifierConfig
from shared import served
from shared.bus import connect
from shared.bus.redis_client import RedisClient
from shared.config import BusConfig, load
from shared.messages import RecommendRequest
from shared.topics import (
    Topic,
    batch_generate_requests,
    generate_requests,
    recommend_requests,
    score_requests,
)
from tests.manifests import DEPLOYMENTS, SERVICES, ScaledObject, StreamTrigger, of_kind
from tests.redis_server import RedisServer
from tests.test_docs import ROOT

SCALED = of_kind("autoscaled", "ScaledObject")


def test_what_is_scaled_is_there_and_in_one_hand() -> None:
    targets = {name: scaled["spec"]["scaleTargetRef"]["name"] for name, scaled in SCALED.items()}
    assert sorted(targets.values()) == SERVICES
    for name, deployment in of_kind("autoscaled", "Deployment").items():
        assert "replicas" not in deployment["spec"]
        wanted = DEPLOYMENTS[name]["spec"]["replicas"]
        assert SCALED[name]["spec"]["minReplicaCount"] == wanted


def stream_triggers(name: str) -> list[StreamTrigger]:
    triggers = ScaledObject.model_validate(SCALED[name]["spec"]).triggers
    return [trigger for trigger in triggers if isinstance(trigger, StreamTrigger)]


def test_keda_asks_the_services_redis_with_their_secret() -> None:
    settings = of_kind("base", "ConfigMap")["quorum-settings"]["data"]
    secret = DEPLOYMENTS["voter"]["spec"]["template"]["spec"]["volumes"][1]["secret"]["secretName"]
    (authentication,) = of_kind("autoscaled", "TriggerAuthentication").values()
    wanted = {"password": settings["BUS_PASSWORD_FILE"], "ca": settings["BUS_CA_FILE"]}
    assert {r["parameter"]: (r["name"], r["key"]) for r in authentication["spec"]["secretTargetRef"]
            } == {name: (secret, Path(file).name) for name, file in wanted.items()}  # fmt: skip
    for trigger in [*stream_triggers("verifier"), *stream_triggers("recommender")]:
        assert trigger.authenticationRef.name == authentication["metadata"]["name"]
        assert settings["BUS_URL"] == f"rediss://{trigger.metadata.address}/0"
        assert trigger.metadata.enableTLS == "true"


def test_keda_watches_the_keys_that_the_code_uses() -> None:
    gateway = load(GatewayConfig, {})
    (target,) = served.read(ROOT / gateway.model)
    model = target.name
    topics: dict[str, list[Topic[Any]]] = {
        "verifier": [generate_requests(model), batch_generate_requests(model)],
        "recommender": [
            recommend_requests(gateway.recommender),
            score_requests(gateway.recommender),
        ],
    }
    client = RedisClient(BusConfig(url="redis://redis:6379/0"))
    holds = {
        "verifier": load(VerifierConfig, {}).max_batch,
        "recommender": load(RecommenderConfig, {}).max_requests,
    }
    assert {name for name in SERVICES if stream_triggers(name)} == set(topics)
    for name, read in topics.items():
        triggers = [trigger.metadata for trigger in stream_triggers(name)]
        assert len(triggers) == 2 * len(read)
        for topic, by_lag, by_pending in zip(read, triggers[::2], triggers[1::2], strict=True):
            for watched in (by_lag, by_pending):
                assert watched.stream == client.key("topic", topic.name)
                assert watched.consumerGroup == topic.group
            assert int(by_lag.lagCount or 0) > 0
            assert 0 < int(by_pending.pendingEntriesCount or 0) < holds[name]


async def test_redis_tells_keda_what_waits_and_what_is_in_work(redis_server: RedisServer) -> None:
    watched = stream_triggers("recommender")[0].metadata
    topic = recommend_requests(load(GatewayConfig, {}).recommender)
    bus, redis = connect(BusConfig(url=redis_server.url)), Redis.from_url(redis_server.url)
    try:
        for number in range(4):
            await bus.publish(topic, RecommendRequest(str(number), "x", {}, None, 1, bus.now() + 9))
        async with bus.subscribe(topic) as inbound:
            await (await inbound.next()).ack()
            taken = await inbound.next()
            (group,) = await redis.xinfo_groups(watched.stream)
            await taken.ack()
            assert (group["name"], group["pending"]) == (watched.consumerGroup.encode(), 1)
            # Before 7.0 there is no lag, and KEDA refuses. What was acknowledged is deleted.
            assert group.get("lag", 2) == 2
    finally:
        await redis.delete(watched.stream)
        await redis.aclose()
        await bus.close()

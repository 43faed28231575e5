"""The registry: who is live, and which of them a key goes to."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shared.bus import Bus, Instance, connect
from shared.bus.memory import MemoryBus
from shared.config import BusConfig
from shared.registry import Registry, rendezvous
from tests.redis_server import RedisServer

KEYS = [f"request-{number}" for number in range(200)]
IDS = st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=8, unique=True)


def instance(instance_id: str, role: str = "voter", name: str = "voter") -> Instance:
    return Instance(instance_id, role, name, instance_id, {})


def choices(instances: list[Instance]) -> dict[str, str]:
    return {key: rendezvous(key, instances).instance_id for key in KEYS}


def live_ids(registry: Registry, role: str = "voter") -> list[str]:
    return [i.instance_id for i in registry.live(role)]


@given(IDS)
def test_when_an_instance_goes_only_its_keys_move(ids: list[str]) -> None:
    instances = [instance(i) for i in ids]
    before, after = choices(instances), choices(instances[1:])
    assert ids[0] not in after.values()
    assert {key for key in KEYS if before[key] != after[key]} == {
        key for key in KEYS if before[key] == ids[0]
    }


@given(IDS)
def test_when_an_instance_comes_keys_move_to_it_alone(ids: list[str]) -> None:
    instances = [instance(i) for i in ids]
    before, after = choices(instances[1:]), choices(instances)
    assert {after[key] for key in KEYS if before[key] != after[key]} <= {ids[0]}


@given(IDS, st.randoms(use_true_random=False))
def test_the_order_of_the_instances_is_irrelevant(ids: list[str], order: random.Random) -> None:
    instances = [instance(i) for i in ids]
    shuffled = list(instances)
    order.shuffle(shuffled)
    assert choices(instances) == choices(shuffled)


def test_one_instance_takes_every_key() -> None:
    assert set(choices([instance("only")]).values()) == {"only"}


def test_keys_spread_evenly() -> None:
    instances = [instance(f"voter.{number}") for number in range(8)]
    counts = Counter(rendezvous(str(key), instances).instance_id for key in range(8000))
    # Of a binomial with 1000 expected, six standard deviations are 180.
    assert len(counts) == 8
    assert all(820 < count < 1180 for count in counts.values())


async def test_what_is_announced_is_seen_by_all_and_found_by_role_and_name(bus: Bus) -> None:
    one, two = Registry(bus, 10), Registry(bus, 10)
    await one.announce(instance("a", "drafter", "ngram"))
    await two.announce(instance("b", "drafter", "suffix"))
    await one.announce(instance("c", "voter"))
    assert [i.instance_id for i in one.live("drafter")] == ["a", "b"]
    assert [i.instance_id for i in one.live("drafter", "suffix")] == ["b"]
    assert one.live("verifier") == []
    found = one.find("b")
    assert found == instance("b", "drafter", "suffix")
    assert one.find("nobody") is None
    assert two.find("c") is None, "a look costs no bus operation"


async def test_what_is_withdrawn_is_gone_at_once(bus: Bus) -> None:
    one, two = Registry(bus, 10), Registry(bus, 10)
    await one.announce(instance("a"))
    await two.announce(instance("b"))
    await one.withdraw("a")
    assert live_ids(one) == ["b"]
    await two.announce(instance("b"))
    assert live_ids(two) == ["b"]


async def test_withdrawing_what_is_not_ours_does_nothing(bus: Bus) -> None:
    one, two = Registry(bus, 10), Registry(bus, 10)
    await one.announce(instance("a"))
    await two.withdraw("a")
    await two.announce(instance("b"))
    assert live_ids(two) == ["a", "b"]


async def test_changed_fires_when_the_set_changes_and_not_before() -> None:
    bus = MemoryBus(BusConfig())
    registry, other = Registry(bus, 10), Registry(bus, 10)
    await registry.announce(instance("a"))
    waiting = asyncio.create_task(registry.changed())
    await registry.announce(instance("a"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done(), "nothing changed"
    await other.announce(instance("b"))
    await registry.announce(instance("a"))
    await asyncio.wait_for(waiting, 5)
    assert live_ids(registry) == ["a", "b"]


async def test_every_change_fires_anew_for_all_who_wait() -> None:
    registry = Registry(MemoryBus(BusConfig()), 10)
    for name in "abc":
        waiting = [asyncio.create_task(registry.changed()) for _ in range(3)]
        await asyncio.sleep(0)
        await registry.announce(instance(name))
        await asyncio.wait_for(asyncio.gather(*waiting), 5)


async def test_an_instance_whose_lease_is_not_renewed_goes(bus: Bus) -> None:
    watcher, silent = Registry(bus, 0.3), Registry(bus, 1.0)
    await silent.announce(instance("silent"))
    await watcher.announce(instance("watcher"))
    assert live_ids(watcher) == ["silent", "watcher"]
    running = asyncio.create_task(watcher.run())
    await asyncio.wait_for(watcher.changed(), 5)
    assert live_ids(watcher) == ["watcher"]
    running.cancel()
    await asyncio.wait([running])


class Failures(logging.Handler):
    """Tells when renewals have failed so often."""

    def __init__(self, expected: int) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self._expected = expected

    def emit(self, record: logging.LogRecord) -> None:
        self._expected -= record.getMessage().startswith("registry not renewed")
        if self._expected <= 0:
            self.reached.set()


async def test_an_absent_bus_leaves_the_last_view_and_is_found_again(
    own_redis_server: RedisServer,
) -> None:
    config = BusConfig(url=own_redis_server.url, retry_s=0.05)
    bus, other_bus = connect(config), connect(config)
    registry = Registry(bus, 0.3)
    await registry.announce(instance("a"))
    running = asyncio.create_task(registry.run())
    failures = Failures(3)
    logging.getLogger("shared.registry").addHandler(failures)
    own_redis_server.stop()
    await asyncio.wait_for(failures.reached.wait(), 20)
    logging.getLogger("shared.registry").removeHandler(failures)
    assert not running.done()
    assert live_ids(registry) == ["a"]
    own_redis_server.start()
    other = Registry(other_bus, 5.0)
    changed = asyncio.create_task(registry.changed())
    await other.announce(instance("b"))
    await asyncio.wait_for(changed, 10)
    while live_ids(registry) != ["a", "b"]:
        await asyncio.wait_for(registry.changed(), 10)
    running.cancel()
    await asyncio.wait([running])
    await bus.close()
    await other_bus.close()


async def test_drafters_are_those_of_the_target_and_of_its_tokens() -> None:
    registry = Registry(connect(BusConfig()), 60.0)
    for name, attributes in {
        "any": {},
        "listed": {"targets": "one,two", "vocabulary": "x"},
        "another's": {"targets": "two", "vocabulary": "x"},
        "other tokens": {"vocabulary": "y"},
        "same tokens": {"vocabulary": "x"},
    }.items():
        await registry.announce(Instance(name, "drafter", name, name, attributes))

    def names(target: str, vocabulary: str) -> set[str]:
        return {i.name for i in registry.drafters(target, vocabulary)}

    assert names("one", "x") == {"any", "listed", "same tokens"}
    assert names("two", "x") == {"any", "listed", "another's", "same tokens"}
    assert names("on", "x") == {"any", "same tokens"}
    # Nothing is known of the target's tokens: then nothing speaks against anybody's.
    assert names("one", "") == {"any", "listed", "other tokens", "same tokens"}

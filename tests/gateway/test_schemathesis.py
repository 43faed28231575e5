"""What schemathesis makes of /openapi.json, good and bad, sent to a real gateway: nothing that it
answers is a fault of ours, or outside of the document.

The requests are the same in each run. The gateway runs on a thread of its own, before a verifier
of the test's own and a real recommender, since the client blocks.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, MutableMapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import reject
from schemathesis.checks import CheckFunction, negative_data_rejection
from schemathesis.config import SchemathesisConfig

from services.gateway.config import GatewayConfig
from services.gateway.reference.openapi import document
from services.gateway.service import GatewayService
from services.gateway.text import TextModel
from services.gateway.timeouts import HEADER
from services.recommender.config import RecommenderConfig
from services.recommender.service import RecommenderService
from shared.bus import connect
from shared.codec import pack, unpack
from shared.config import BusConfig
from tests.gateway.conftest import ScriptedVerifier
from tests.gateway.document import check_events
from tests.gateway.house import model_folders  # noqa: F401 - a fixture
from tests.system import running

MAX_EXAMPLES = 15
PATIENCE_S = 5.0
MSGPACK = "application/msgpack"
NAMES = {"model": "toy", "file": "docs.js", "id": "nobody"}
CONFIG = {
    "seed": 1,
    "generation": {
        "max-examples": MAX_EXAMPLES,
        "deterministic": True,
        "allow-extra-parameters": False,  # unknown headers and queries are nobody's business
        "database": "none",
        "no-shrink": True,
    },
    "checks": {
        # What a schema cannot say (a context's length, names that exist) makes a good body a bad
        # request, and an answer that says so is a right one.
        "positive_data_acceptance": {"enabled": False},
        "negative_data_rejection": {"expected-statuses": ["400", "404", "413"]},
        # Which the document must have, then.
        "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503", "504"]},
    },
}
API = schemathesis.openapi.from_dict(document(), config=SchemathesisConfig.from_dict(CONFIG))


@schemathesis.serializer(MSGPACK)
def to_msgpack(_: object, value: object) -> bytes:
    try:
        return pack(value)
    except OverflowError:
        reject()  # msgpack has no number beyond 64 bits


@schemathesis.deserializer(MSGPACK)
def from_msgpack(_: object, response: schemathesis.Response) -> object:
    return unpack(response.content)


@asynccontextmanager
async def served(model: Path, recommender: Path) -> AsyncIterator[str]:
    """A gateway with something behind each route; its address."""
    bus_config = BusConfig()
    bus = connect(bus_config)
    config = GatewayConfig(port=0, model=model, recommender=recommender.name, request_timeout_s=5)
    gateway = GatewayService(config, bus, bus_config)
    verifier = ScriptedVerifier(bus, bus_config, TextModel(model))
    scorer = RecommenderService(RecommenderConfig(model=recommender), bus, bus_config)
    async with running(verifier), running(scorer), running(gateway):
        yield f"http://127.0.0.1:{gateway.port}"


@pytest.fixture(scope="module")
def url(model_folder: Path, model_folders: dict[str, Path]) -> Iterator[str]:  # noqa: F811
    started: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        async with served(model_folder, model_folders["toy"]) as address:
            done = asyncio.Event()
            started.set_result((address, asyncio.get_running_loop(), done))
            await done.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    address, loop, done = started.result()
    yield address
    loop.call_soon_threadsafe(done.set)
    thread.join()


def be_patient(case: schemathesis.Case) -> None:
    """The least number above zero is a good timeout, and always over before anything is done."""
    for given, name in ((case.headers, HEADER), (case.body, "timeout")):
        if isinstance(given, MutableMapping) and 0 < number(given.get(name)) < PATIENCE_S:
            given[name] = type(given[name])(PATIENCE_S)


def number(value: object) -> float:
    try:
        return float(value) if isinstance(value, str | float) else 0.0
    except ValueError:
        return 0.0


def check(case: schemathesis.Case, url: str, but: Sequence[CheckFunction] = ()) -> None:
    be_patient(case)
    response = case.call(base_url=url)
    case.validate_response(response, excluded_checks=list(but))
    if response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        check_events(case.method, case.path, response.text)


@API.parametrize()
def test_no_answer_is_a_fault_or_outside_of_the_document(case: schemathesis.Case, url: str) -> None:
    check(case, url)


@pytest.fixture(scope="module")
def names(url: str) -> dict[str, str]:
    """What there is for a path to name."""
    model = requests.get(f"{url}/v2/models/{NAMES['model']}", timeout=PATIENCE_S).json()
    return {**NAMES, "version": model["versions"][0]}


@API.include(path_regex="{").parametrize()
def test_nor_where_the_path_names_what_there_is(
    case: schemathesis.Case, url: str, names: dict[str, str]
) -> None:
    """Names that are drawn hardly ever are any model's."""
    for name in case.path_parameters:
        case.path_parameters[name] = names[name]
    check(case, url, [negative_data_rejection])

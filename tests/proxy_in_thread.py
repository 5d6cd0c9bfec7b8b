"""A proxy in a thread of the test's process, with the event loop it needs."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from infra.proxy.proxy import RunningProxy, running_proxy
from infra.proxy.settings import ProxySettings

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient


@contextmanager
def proxied(upstream: str, **settings: Any) -> Iterator[RunningProxy]:
    """Run a proxy before `upstream` for the length of a `with` block."""
    started: asyncio.Future[RunningProxy]
    loop = asyncio.new_event_loop()
    started = loop.create_future()
    stop = asyncio.Event()

    async def serve() -> None:
        async with running_proxy(ProxySettings(upstream=upstream, **settings)) as proxy:
            started.set_result(proxy)
            await stop.wait()

    async def main() -> None:
        try:
            await serve()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    ready = threading.Event()
    started.add_done_callback(lambda _: ready.set())
    thread.start()
    try:
        assert ready.wait(30), "the proxy does not start"
        yield started.result()
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        assert not thread.is_alive(), "the proxy does not stop"
        loop.close()


def kinesis_at(url: str) -> "KinesisClient":
    """Return a client without the SDK's own retries."""
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30)
    return boto3.session.Session().client("kinesis", endpoint_url=url, config=config)

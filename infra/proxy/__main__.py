"""What it shows: what a producer does when the network loses an answer, not the request.

How to run it::

    python -m infra.proxy --upstream http://127.0.0.1:4568 --port 0
    curl -d '{"operation": "PutRecords", "count": 2}' http://127.0.0.1:PORT/_proxy/lose
    curl http://127.0.0.1:PORT/_proxy/status

What you will see: one line `ready http://127.0.0.1:PORT` on standard output, then one line on
standard error for each answer that is lost and each upstream failure.

What is guaranteed and what is not: requests and answers pass unchanged, headers and bodies byte for
byte, streams as they come. An answer is only lost after the upstream has answered in full and with
success, so the records are in the stream although the client sees a broken connection. Order
between connections is the upstream's. Nothing is repeated.

What to change for production: nothing, it has no place there. It refuses AWS as an upstream.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from infra.errors import AwsRefusedError
from infra.proxy.server import running_proxy


def main(argv: Sequence[str] | None = None) -> int:
    """Run the proxy until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.proxy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--upstream", required=True, metavar="URL", help="where requests go, http://host:port"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=0, help="the port to listen on; 0 is any")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(_serve(arguments.upstream, arguments.host, arguments.port))
    except AwsRefusedError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"cannot listen on {arguments.host}:{arguments.port}: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(upstream: str, host: str, port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with running_proxy(upstream, host=host, port=port) as url:
        print(f"ready {url}", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    sys.exit(main())

"""What it shows: your Kinesis code against an engine of your own that behaves like AWS.

How to run it::

    python -m infra.proxy --upstream http://127.0.0.1:4566 --port 4569 --quotas aws --correct
    export AWS_ENDPOINT_URL_KINESIS=http://127.0.0.1:4569       # boto3, CLI, KCL: nothing else

    # what is refused, lost or torn, from a file and by hand
    python -m infra.proxy --upstream URL --port 4569 --scenario infra/proxy/scenarios/bad_day.toml
    curl -d '{"action": "lose", "operation": "PutRecords"}' http://127.0.0.1:4569/_proxy/faults
    curl http://127.0.0.1:4569/_proxy/status

    # the KPL speaks TLS only; other clients are told to trust the certificate
    python -m infra.proxy --upstream URL --tls --tls-port 4570 --ca-file proxy-ca.pem
    AWS_CA_BUNDLE=proxy-ca.pem aws --endpoint-url https://localhost:4570 kinesis list-streams

What you will see: on standard output `ready http://127.0.0.1:4569`, and with `--tls` a second line
`ready https://127.0.0.1:4570 (certificate: FILE)`. On a terminal then a live table on standard
error, with the rate of each shard against its quota; elsewhere, or with `--plain`, one line for
each fault and one of counts every ten seconds. With `--json` standard output has one object a
line: `ready`, `status` each second in which something changed, and `end`.

What is guaranteed and what is not: requests and answers pass unchanged, byte for byte, unless a
quota, a fault or a correction that you switched on says otherwise; each of these is counted in the
status. Faults are the same for the same seed and the same requests. An answer is only lost after
the engine has answered with success. Nothing is repeated unless a fault asks for it. Not
guaranteed: AWS refuses by its own clocks and many machines, so its limits are less sharp.

What to change for production: nothing, it has no place there. It refuses AWS as an upstream.

Exit status: 0 after SIGINT or SIGTERM; 1 when it cannot listen or nobody reads its `--json` any
more; 2 for bad usage, a scenario that cannot be used, or AWS as the upstream.
"""

import argparse
import asyncio
import gc
import logging
import math
import os
import signal
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from infra.errors import AwsRefusedError
from infra.proxy.corrections import names
from infra.proxy.proxy import running_proxy
from infra.proxy.scenario import ScenarioError
from infra.proxy.settings import ProxySettings
from infra.proxy.view import JsonView, LiveView, PlainView, Ready, View
from infra.safety import is_loopback

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the proxy until SIGINT or SIGTERM."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not arguments.tls and (arguments.tls_port or arguments.ca_file):
        parser.error("--tls-port and --ca-file go with --tls")
    settings = _settings(arguments)
    view = _view(arguments)
    if not is_loopback(f"//{_in_url(settings.host)}"):
        logger.warning(
            "others can reach %s; the control endpoint /_proxy/ still answers this machine only",
            settings.host,
        )
    with ExitStack() as stack:
        if settings.tls and settings.ca_file is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kinesis-proxy-"))
            settings = replace(settings, ca_file=Path(folder) / "ca.pem")
        try:
            asyncio.run(_serve(settings, view))
        except (AwsRefusedError, ScenarioError) as error:
            print(error, file=sys.stderr)
            return 2
        except BrokenPipeError:
            # Whoever read our lines has gone. Python must not try to write the rest at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            if error.filename is not None:
                print(error, file=sys.stderr)
                return 2
            print(f"cannot listen on {settings.host}: {error}", file=sys.stderr)
            return 1
    return 0


async def _serve(settings: ProxySettings, view: View) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with running_proxy(settings) as proxy:
        ca_file = str(settings.ca_file) if proxy.tls_url else None
        gc.freeze()  # what is there now stays; to search it all again takes tens of milliseconds
        view.ready(Ready(url=proxy.url, tls_url=proxy.tls_url, ca_file=ca_file))
        with view.showing():
            while not stopped.is_set():
                try:
                    await asyncio.wait_for(stopped.wait(), view.look_every_seconds)
                except TimeoutError:
                    view.update(proxy.status())
    view.end(proxy.status())


def _view(arguments: argparse.Namespace) -> View:
    """Choose what is shown, and lead the log to where it does not tear it."""
    console = Console(stderr=True)
    live = console.is_terminal and not arguments.plain and not arguments.json
    # No INFO: faults are the view's to tell, and a library's news are nobody's.
    if live:
        logging.basicConfig(format="%(message)s", handlers=[RichHandler(console=console)])
        return LiveView(console, sys.stdout)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    return JsonView(sys.stdout) if arguments.json else PlainView(sys.stdout, sys.stderr)


def _settings(arguments: argparse.Namespace) -> ProxySettings:
    return ProxySettings(
        upstream=arguments.upstream,
        host=arguments.host,
        port=arguments.port,
        tls=arguments.tls,
        tls_port=arguments.tls_port,
        ca_file=arguments.ca_file,
        quotas=arguments.quotas == "aws",
        corrections=arguments.correct,
        scenario=arguments.scenario,
        seed=arguments.seed,
        time_scale=arguments.time_scale,
    )


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _corrections(text: str) -> frozenset[str]:
    try:
        return names.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def _scale(text: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not 0 < scale < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return scale


def _parser() -> argparse.ArgumentParser:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m infra.proxy",
        description=summary,
        epilog=f"{rest}\nWhat `--correct` puts right:\n\n{_list_of_corrections()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    environ = os.environ
    upstream = environ.get("AWS_ENDPOINT_URL_KINESIS") or environ.get("AWS_ENDPOINT_URL")
    add = parser.add_argument
    add(
        "--upstream",
        metavar="URL",
        default=upstream,
        required=not upstream,
        help="the engine, http://host:port (default: AWS_ENDPOINT_URL_KINESIS, AWS_ENDPOINT_URL)",
    )
    add("--host", default="127.0.0.1", help="the address to listen on (default 127.0.0.1)")
    add("--port", type=_port, default=0, help="the port for HTTP/1.1 and HTTP/2; 0 is any")
    add("--tls", action="store_true", help="listen for TLS as well, with a throw-away certificate")
    add("--tls-port", type=_port, default=0, metavar="PORT", help="the port for TLS; 0 is any")
    add("--ca-file", type=Path, metavar="FILE", help="write the authority's certificate here")
    _add_behaviour(parser)
    return parser


def _list_of_corrections() -> str:
    fill = textwrap.TextWrapper(88, initial_indent=" " * 6, subsequent_indent=" " * 6).fill
    return "\n\n".join(f"  {name}\n{fill(names.ALL[name])}" for name in sorted(names.ALL))


def _add_behaviour(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--quotas",
        choices=["aws", "off"],
        default="off",
        help="aws: refuse what AWS would, per shard and per account (default off)",
    )
    add(
        "--correct",
        type=_corrections,
        nargs="?",
        const="all",
        default=frozenset[str](),
        metavar="NAMES",
        help="put right what the engine answers wrongly: everything without NAMES, else a list"
        " such as a,b or all,-b; they are listed below (default: nothing)",
    )
    add("--scenario", type=Path, metavar="FILE", help="a TOML file of faults")
    add("--seed", type=int, metavar="N", help="of the faults' chances (default: the scenario's)")
    add(
        "--time-scale",
        type=_scale,
        default=1.0,
        metavar="X",
        help="let iterators and subscriptions end X times sooner (default 1)",
    )
    add("--json", action="store_true", help="one JSON object a line on standard output")
    add("--plain", action="store_true", help="no live table, on a terminal either")


if __name__ == "__main__":
    sys.exit(main())

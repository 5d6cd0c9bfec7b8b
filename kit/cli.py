"""The `kit` command. Each command is a few lines here and a function elsewhere.

The runnables of the other rooms keep their own options: `kit bridge --help` is the help of
`python -m iot.bridge`. What `kit` adds is the endpoints: it runs them against the stack that
`kit up` started, or the endpoints in the environment, and against AWS only with `--stack aws`.
"""

import importlib
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from infra.errors import InfraError
from kit import copy as copying
from kit import decode as decoding
from kit import put as putting
from kit import replay as replaying
from kit import stacks
from kit.demo.run import Plan, run
from kit.demo.sabotage import Sabotage
from kit.environment import adopt

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Kinesis and IoT on your own machine: stacks, templates, and a demo with a verdict.",
)

STACK_HELP = "Where to run: the stack `kit up` started, the endpoints in the environment, or `aws`."


class LocalStackName(StrEnum):
    """The stacks that `kit` can start."""

    EMBEDDED = "embedded"
    CONTAINERS = "containers"


class DemoStack(StrEnum):
    """The stacks that the demo runs on."""

    EMBEDDED = "embedded"
    CONTAINERS = "containers"
    ENVIRONMENT = "environment"
    AWS = "aws"


StackOption = Annotated[LocalStackName, typer.Option("--stack", help="Which stack.")]
AggregateOption = Annotated[
    bool, typer.Option("--aggregate", help="Pack many records in one, in the KPL's format.")
]
UnorderedOption = Annotated[
    bool, typer.Option("--unordered", help="Faster: records of one key may overtake each other.")
]
LingerOption = Annotated[
    str | None,
    typer.Option(metavar="SECONDS", help="How long a line waits for others; with --aggregate."),
]
MaxAgeOption = Annotated[
    str | None,
    typer.Option(metavar="SECONDS", help="After how long an unconfirmed record is given up."),
]
RunStackOption = Annotated[str | None, typer.Option("--stack", help=STACK_HELP)]


@app.command()
def demo(
    *,
    events: Annotated[int, typer.Option(help="Events in all.")] = 3000,
    devices: Annotated[int, typer.Option(help="Simulated devices.")] = 8,
    seconds: Annotated[float, typer.Option(help="Over how long the devices send.")] = 75.0,
    stack: Annotated[DemoStack, typer.Option(help="Where to run.")] = DemoStack.EMBEDDED,
    stream: Annotated[str | None, typer.Option(help="An empty stream to use.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="End with one JSON object on standard output.")
    ] = False,
    sabotage: Annotated[
        Sabotage | None, typer.Option(help="Break a promise on purpose: the verdict objects.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Keep logs and files in this empty folder.")
    ] = None,
) -> None:
    """Devices, a reshard, lost answers, a killed consumer, and a verdict. Exits 0 if all held."""
    plan = Plan(
        events=events,
        devices=devices,
        seconds=seconds,
        stack=stack,
        stream=stream,
        as_json=as_json,
        sabotage=sabotage,
        folder=folder,
    )
    raise typer.Exit(run(plan))


@app.command()
def up(*, stack: StackOption = LocalStackName.EMBEDDED) -> None:
    """Start a stack that stays until `kit down`."""
    raise typer.Exit(stacks.up(stack))


@app.command()
def env(*, stack: StackOption = LocalStackName.EMBEDDED) -> None:
    """Print the stack's variables for a shell: `eval "$(kit env)"`."""
    raise typer.Exit(stacks.env(stack))


@app.command()
def status(*, stack: StackOption = LocalStackName.EMBEDDED) -> None:
    """Ask every service of the stack whether it is well."""
    raise typer.Exit(stacks.status(stack))


@app.command()
def down(*, stack: StackOption = LocalStackName.EMBEDDED) -> None:
    """Stop the stack and all that belongs to it."""
    raise typer.Exit(stacks.down(stack))


@app.command()
def put(
    stream: Annotated[str, typer.Argument(help="The stream's name or ARN.")],
    source: Annotated[str, typer.Argument(help="A file of lines, or - for standard input.")] = "-",
    *,
    key_field: Annotated[
        str | None, typer.Option(help="The JSON field that is the partition key.")
    ] = None,
    partition_key: Annotated[
        str | None, typer.Option(help="One partition key for every line.")
    ] = None,
    dead_letter: Annotated[
        str | None, typer.Option(help="Where lines that cannot be delivered go: see kit replay.")
    ] = None,
    aggregate: AggregateOption = False,
    linger: LingerOption = None,
    max_age: MaxAgeOption = None,
    unordered: UnorderedOption = False,
    stack: RunStackOption = None,
) -> None:
    """Put the lines of a file into a stream and say what became of each.

    With --aggregate each travels as soon as it can be read, in order per key if there is one;
    --linger, --max-age and --unordered go with it.
    """
    if not aggregate and (linger is not None or max_age is not None or unordered):
        raise typer.BadParameter("--linger, --max-age and --unordered need --aggregate")
    use_endpoints(stack)
    options = {
        "key-field": key_field,
        "partition-key": partition_key,
        "dead-letter": dead_letter,
        "linger": linger,
        "max-age": max_age,
        "unordered": unordered,
    }
    raise typer.Exit(putting.put(stream, source, options, aggregate=aggregate))


@app.command()
def replay(
    file: Annotated[str, typer.Argument(help="What --dead-letter of a producer has written.")],
    *,
    stream: Annotated[
        str | None, typer.Option(help="Put all on this stream, by name or ARN.")
    ] = None,
    aggregate: AggregateOption = False,
    max_age: MaxAgeOption = None,
    unordered: UnorderedOption = False,
    dead_letter: Annotated[
        str | None, typer.Option(help="Where what fails once more goes; by default FILE.failed.")
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="In the end take out what was delivered or kept.")
    ] = False,
    stack: RunStackOption = None,
) -> None:
    """Put dead letters back on their streams, with the same keys, data and record IDs.

    Doing it twice is harmless where records carry IDs. Without --remove the file stays as it is.
    """
    use_endpoints(stack)
    options = {
        "stream": stream,
        "aggregate": aggregate,
        "max-age": max_age,
        "unordered": unordered,
        "dead-letter": dead_letter,
        "remove": remove,
    }
    raise typer.Exit(replaying.replay(file, options))


@app.command()
def decode(
    source: Annotated[str, typer.Argument(help="A raw record's file, or - .")] = "-",
    *,
    base64: Annotated[bool, typer.Option("--base64", help="The input is base64 text.")] = False,
) -> None:
    """Print what is inside a raw record: aggregates, record IDs, JSON."""
    raise typer.Exit(decoding.main(source, base64=base64))


@app.command()
def copy(
    template: Annotated[
        str | None, typer.Argument(help="Such as producers/put_records.py.")
    ] = None,
    *,
    into: Annotated[Path | None, typer.Option(help="A package's folder in your project.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that differ.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the templates.")] = False,
) -> None:
    """Copy a template, and exactly what it imports, into your own project."""
    if show_list:
        raise typer.Exit(copying.list_templates())
    if template is None or into is None:
        raise typer.BadParameter("say what to copy and where: kit copy TEMPLATE --into FOLDER")
    raise typer.Exit(copying.copy(template, into, force=force))


RUNNABLES = {
    "consume": ("consumers.kcl.__main__", "Consume a stream with KCL, each record once."),
    "device": ("iot.device", "Be one device: telemetry and a shadow."),
    "fleet": ("iot.fleet", "Be a fleet of devices."),
    "shadow": ("iot.shadow_client", "Read, set or watch a shadow."),
    "shadows": ("iot.shadows.__main__", "Serve AWS IoT's shadow topics on a plain broker."),
    "bridge": ("iot.bridge", "Move telemetry from MQTT into a stream."),
    "provision": ("infra.provision", "Create streams, tables, buckets and queues."),
    "conformance": ("infra.conformance.__main__", "See what an endpoint answers other than AWS."),
    "proxy": (
        "infra.proxy.__main__",
        "Make an emulator behave like AWS: quotas, faults, corrections.",
    ),
}


def add_runnable(name: str, module: str, summary: str) -> None:
    """Add a command that hands its arguments to the `main` of `module`."""

    def command(context: typer.Context, *, stack: RunStackOption = None) -> None:
        if not {"-h", "--help"} & set(context.args):
            use_endpoints(stack)
        raise typer.Exit(importlib.import_module(module).main(context.args))

    app.command(
        name,
        help=f"{summary} The options are those of `python -m {module.removesuffix('.__main__')}`.",
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(command)


for _name, (_module, _summary) in RUNNABLES.items():
    add_runnable(_name, _module, _summary)


def use_endpoints(stack: str | None) -> None:
    """Point this process at a stack, and never at AWS by accident."""
    adopt(stacks.endpoints_for(stack, os.environ))


def main() -> None:
    """Run `kit`; a foreseeable error is one line on standard error and exit code 1."""
    try:
        app()
    except InfraError as error:
        print(f"kit: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

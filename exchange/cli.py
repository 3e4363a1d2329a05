"""The command ``send``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcpipe.cli.options import data_option, json_option, options_into
from wbcpipe.errors import ConfigError, DeliveryError
from wbcpipe.samples.sample import Sample, data_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.exchange.sending.deliver import Until
    from wbcpipe.exchange.sending.outbox import Outbox
    from wbcpipe.laboratory.destinations import Destination
    from wbcpipe.laboratory.lab_file import Lab

# The libraries for documents are imported when a document is written: they are an extra.

__all__ = ["send"]


@dataclass(frozen=True)
class SendOptions:
    """The options of ``send``, by their names on the command line; see its help."""

    names: tuple[str, ...]
    data: Path | None
    lab: Path | None
    order: Path | None
    cancel: str
    show: str | None
    listing: bool
    again: bool
    watch: bool
    as_json: bool


@click.command()
@click.option(
    "--sample",
    "names",
    multiple=True,
    metavar="NAME",
    help="A sample to send; may be given several times.",
)
@data_option
@click.option(
    "--lab",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The laboratory's file; default lab.toml in the data folder.",
)
@click.option(
    "--order",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Order and patient of the one sample, JSON or TOML; kept as order.json.",
)
@click.option(
    "--cancel", default="", metavar="REASON", help="Take the results of the samples back."
)
@click.option(
    "--show",
    type=click.Choice(["fhir", "oru", "oul"]),
    help="Print the document of the one sample; nothing is sent.",
)
@click.option(
    "--list",
    "listing",
    is_flag=True,
    help="Show what waits, was accepted and was refused; send nothing.",
)
@click.option(
    "--again",
    is_flag=True,
    help="Send refused messages again, after what they were refused for is mended.",
)
@click.option("--watch", is_flag=True, help="Keep sending until stopped (Ctrl-C).")
@json_option
@options_into(SendOptions)
def send(options: SendOptions) -> None:
    """Send results to the laboratory system.

    Each sample's result goes into the outbox of every destination of the laboratory's file, and
    from there to a drop folder or to a listener that speaks MLLP, as FHIR R4B, HL7 v2.5.1 ORU^R01
    or OUL^R22 (IHE LAW). A message waits until it is answered; the same command goes on where it
    stopped. Without --sample, what waits is sent.

    Nothing unsigned is sent, unless the laboratory's file says so ([send] unsigned = true).

    \b
    Examples:
      wbcpipe send --sample S001
      wbcpipe send --sample S001 --show oru
      wbcpipe send --sample S001 --order order.json
      wbcpipe send --sample S001 --cancel "slides were exchanged"
      wbcpipe send --watch
      wbcpipe send --list

    Exit code 61: something still waits, or was refused. Not for diagnostic use.
    """
    from wbcpipe.laboratory.lab_file import find_lab

    root = data_root(options.data)
    samples = [Sample.open(root, name) for name in options.names]
    for sample in samples:
        sample.record()
    if (options.order or options.show) and len(samples) != 1:
        raise ConfigError("--order and --show need one --sample.")
    if options.cancel and not samples:
        raise ConfigError("--cancel needs --sample.")
    lab = find_lab(root, options.lab)
    if options.order:
        keep_order(samples[0], options.order)
    if options.show:
        click.echo(document_text(samples[0], lab, options.show), nl=False)
        return
    from wbcpipe.exchange.sample_result import outboxes

    targets = outboxes(root, lab)
    sends_elsewhere = not options.listing and not queue_and_send(samples, lab, targets, options)
    _report(targets, options, sends_elsewhere=sends_elsewhere)


def keep_order(sample: Sample, path: Path) -> None:
    """Copy an order into a sample, after it was checked.

    Raises:
        ConfigError: the file is not valid.
    """
    from pydantic import ValidationError

    from wbcpipe.samples.order_record import OrderRecord, order_path
    from wbcpipe.system.user_files import UserFile
    from wbcpipe.system.validation_messages import explain

    file = UserFile(path, "an order", ConfigError)
    content: Any = file.read_toml() if path.suffix.lower() == ".toml" else file.read_json()
    try:
        order = OrderRecord.model_validate(content)
    except ValidationError as error:
        findings = "; ".join(explain(item, OrderRecord) for item in error.errors()[:3])
        raise file.refuse(f"{findings}; docs/how-to/lis.md shows an order.") from error
    with sample.lock("send"):
        order.write(order_path(sample))


def document_text(sample: Sample, lab: Lab, kind: str) -> str:
    """Return the document of a sample's result as it would be sent first.

    Segments of HL7 on lines of their own.
    """
    from wbcpipe.exchange.documents.envelope import Envelope
    from wbcpipe.exchange.documents.formats import DocumentFormat, write_document
    from wbcpipe.exchange.message.build import build_message
    from wbcpipe.exchange.sample_result import read_result

    message = build_message(read_result(sample).inputs(lab))
    content = write_document(
        message, Envelope(sending_facility=lab.laboratory), DocumentFormat(kind)
    )
    return content.decode().replace("\r", "\n")


def queue_and_send(
    samples: Sequence[Sample],
    lab: Lab,
    targets: Sequence[tuple[Destination, Outbox]],
    options: SendOptions,
) -> bool:
    """Put results into the outboxes, then send what waits.

    Return whether no other process sends from them.
    """
    from wbcpipe.exchange.sample_result import queue_result
    from wbcpipe.exchange.sending.deliver import deliver

    for sample in samples:
        for found in queue_result(sample, lab, targets, cancel=options.cancel):
            if not options.as_json:
                state = "queued" if found.new else "was queued before"
                click.echo(
                    f"{sample.name} -> {found.destination}: {found.state}, {found.control_id}, "
                    f"{state}"
                )
    if options.again:
        for _, outbox in targets:
            outbox.send_again()
    until: Until = "stopped" if options.watch else "tried"
    try:
        deliver(targets, lab.send, until=until, say=lambda text: click.echo(text, err=True))
    except DeliveryError as error:  # `wbcpipe send --watch`, as a service: it sends what was queued
        if options.watch:
            raise
        click.echo(str(error), err=True)
        return False
    return True


def _report(
    targets: Sequence[tuple[Destination, Outbox]], options: SendOptions, *, sends_elsewhere: bool
) -> None:
    states = {target.name: outbox.state() for target, outbox in targets}
    if options.as_json:
        answers = {
            target.name: [answer.content() for answer in outbox.answers()]
            for target, outbox in targets
        }
        content = {
            name: asdict(state) | {"answers": answers[name]} for name, state in states.items()
        }
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        for name, state in states.items():
            click.echo(
                f"{name}: {state.waiting} waiting, {state.delivered} accepted, {state.refused} "
                f"refused"
            )
        for target, outbox in targets:
            for answer in outbox.answers():
                if answer.code != "AA":
                    click.echo(
                        f"{target.name}: {answer.control_id} refused ({answer.code}): "
                        f"{answer.text or 'no reason'}"
                    )
    waiting = any(state.waiting for state in states.values()) and not sends_elsewhere
    if not options.listing and (waiting or any(state.refused for state in states.values())):
        raise DeliveryError(
            "messages wait or were refused; `wbcpipe send` tries again, `wbcpipe send --list` "
            "shows them."
        )

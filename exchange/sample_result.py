"""From a sample's files to the messages for its destinations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from wbcpipe.errors import ConfigError, SampleStateError
from wbcpipe.exchange.documents.envelope import Envelope
from wbcpipe.exchange.documents.formats import SUFFIXES, DocumentFormat, write_document
from wbcpipe.exchange.message.build import (
    ResultInputs,
    Review,
    build_cancellation,
    build_message,
    held_rules,
    utc_seconds,
)
from wbcpipe.exchange.message.codes import ResultState
from wbcpipe.exchange.message.model import Signature
from wbcpipe.exchange.sending.outbox import Outbox, figures_digest, outbox_folder
from wbcpipe.report.document import read_document
from wbcpipe.samples.order_record import OrderRecord, order_path
from wbcpipe.samples.review.journal import Journal, journal_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wbcpipe.exchange.message.model import ResultMessage
    from wbcpipe.exchange.sending.outbox import LastResult
    from wbcpipe.laboratory.destinations import Destination
    from wbcpipe.laboratory.lab_file import Lab
    from wbcpipe.samples.differential_record import DifferentialRecord
    from wbcpipe.samples.sample import Sample

__all__ = ["Queued", "SampleResult", "envelope_of", "outboxes", "queue_result", "read_result"]


@dataclass(frozen=True)
class SampleResult:
    """What a sample's files say about its result.

    Attributes:
        document: the differential.
        review: state, signature and what readers added.
        order: the order and the patient.
    """

    document: DifferentialRecord
    review: Review
    order: OrderRecord = field(default_factory=OrderRecord)

    def inputs(self, lab: Lab, destination: str = "") -> ResultInputs:
        """Return what a message to a destination is built from."""
        return ResultInputs(self.document, lab, self.order, self.review, destination=destination)


@dataclass(frozen=True)
class Queued:
    """A message for one destination.

    Attributes:
        destination: its name.
        control_id: of the message.
        state: of the result.
        new: it was put into the outbox now; it was there, or was sent, before.
    """

    destination: str
    control_id: str
    state: ResultState
    new: bool


def read_result(sample: Sample) -> SampleResult:
    """Read the differential of a sample, its review and its order.

    Raises:
        SampleStateError: there is no differential, a file is damaged, or `differential.json` is not
            what was signed.
    """
    document = read_document(sample)
    if document.sample != sample.name:
        raise SampleStateError(
            f"sample {sample.name!r}: differential.json is that of {document.sample!r}; run "
            f"`wbcpipe report --sample {sample.name}`."
        )
    found = document.verification
    signed = Journal(journal_path(sample)).state().signed
    order = OrderRecord.read_if_present(order_path(sample)) or OrderRecord()
    extra = tuple((line.name, line.count, line.per_100_wbc or 0.0) for line in found.extra)
    review = Review(readers=found.readers, extra=extra, lab=found.lab)
    if signed is None and found.state == "preliminary":
        return SampleResult(document, review, order)
    if signed is None or signed.sign.differential != document.digest():
        raise SampleStateError(
            f"sample {sample.name!r}: differential.json is not what was signed; run `wbcpipe "
            f"report --sample {sample.name}`, and look at the state of the review."
        )
    signature = Signature(
        reader=signed.entry.reader,
        signed=utc_seconds(signed.entry.time),
        differential_sha256=signed.sign.differential,
        comment=_one_line(found.comment),
        correction=_one_line(found.correction),
    )
    state = ResultState.CORRECTED if found.state == "corrected" else ResultState.FINAL
    return SampleResult(document, replace(review, state=state, signature=signature), order)


def _one_line(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines() if line.strip())


def outboxes(root: Path, lab: Lab) -> list[tuple[Destination, Outbox]]:
    """Return the destinations of the laboratory's file with their outboxes.

    Raises:
        ConfigError: there is none.
    """
    if not lab.destinations:
        where = "the laboratory's file" if lab.file else f"{root / 'lab.toml'}"
        raise ConfigError(
            f"no destination is given; add a table [[destination]] to {where} (docs/how-to/lis.md)."
        )
    return [(target, Outbox(outbox_folder(root) / target.name)) for target in lab.destinations]


def queue_result(
    sample: Sample, lab: Lab, targets: Sequence[tuple[Destination, Outbox]], *, cancel: str = ""
) -> list[Queued]:
    """Put the result of a sample into each outbox, unless it is there already.

    Args:
        sample: the sample.
        lab: the laboratory's settings.
        targets: destinations and their outboxes.
        cancel: reason why the result is taken back; empty to send it.

    Raises:
        SampleStateError: see `read_result`; or the result may not be sent: nobody signed it, or a
            rule holds it back.
        ConfigError: the laboratory's file contradicts the result, or the extra ``lis`` is missing.
        NoCellsError: no cell was counted.
        DocumentError: a document does not read back to the same result.
    """
    result = read_result(sample)
    if not cancel:
        _check_release(sample, result, lab)
    queued = []
    for target, outbox in targets:
        with outbox.held_for_writing():
            message = _next_message(
                result.inputs(lab, target.name), outbox.last_result(sample.name), cancel
            )
            kind = DocumentFormat(target.format)
            content = write_document(message, envelope_of(target, lab), kind)
            new = outbox.put(message, content, SUFFIXES[kind])
        queued.append(Queued(target.name, message.control_id, message.state, new))
        if new:
            sample.log(
                "result_queued",
                destination=target.name,
                control_id=message.control_id,
                state=message.state.value,
            )
    return queued


def _check_release(sample: Sample, result: SampleResult, lab: Lab) -> None:
    if not result.review.state.signed and not lab.send.unsigned:
        raise SampleStateError(
            f"sample {sample.name!r}: nobody signed the result, so it is not sent; sign it with "
            f"`wbcpipe review`, or allow it in the laboratory's file: [send] unsigned = true."
        )
    if held := held_rules(result.document, lab, result.review.readers):
        rule = held[0]
        raise SampleStateError(
            f"sample {sample.name!r}: a reflex rule holds the result back ({rule.figure} "
            f"{rule.of_class} {rule.comparison}): a second reader is needed, and "
            f"{len(result.review.readers)} read it."
        )


def _next_message(inputs: ResultInputs, last: LastResult | None, cancel: str) -> ResultMessage:
    """Return the last message again if nothing changed, else the next one, in the state that
    follows the last.
    """
    if cancel:
        final = last is not None and (last.state.signed or last.state is ResultState.WITHDRAWN)
        state = ResultState.WITHDRAWN if final else ResultState.CANCELLED
        again = build_cancellation(_as(inputs, state, last.sequence if last else 1), cancel)
        if last is None or again.control_id == last.control_id:
            return again
        return build_cancellation(_as(inputs, state, last.sequence + 1), cancel)
    signed = inputs.review.state.signed
    if last is not None and last.state.signed and not signed:
        raise SampleStateError(
            f"{inputs.document.sample}: a signed result was sent, and the signature was withdrawn "
            f"since; sign again, or take the result back with --cancel."
        )
    if last is not None and last.state.has_values and last.state.signed == signed:
        again = build_message(_as(inputs, last.state, last.sequence))
        if again.control_id == last.control_id:
            return again
        if signed:
            same = figures_digest(again) == last.figures_sha256
            return build_message(
                _as(
                    inputs,
                    ResultState.AMENDED if same else ResultState.CORRECTED,
                    last.sequence + 1,
                )
            )
    return build_message(_as(inputs, inputs.review.state, last.sequence + 1 if last else 1))


def _as(inputs: ResultInputs, state: ResultState, sequence: int) -> ResultInputs:
    return replace(inputs, review=replace(inputs.review, state=state), sequence=sequence)


def envelope_of(target: Destination, lab: Lab) -> Envelope:
    """Return sender and receiver for a destination."""
    return Envelope(
        sending_facility=lab.laboratory,
        receiving_application=target.receiving_application,
        receiving_facility=target.receiving_facility,
        processing=target.processing,
        patient_authority=target.patient_authority,
    )

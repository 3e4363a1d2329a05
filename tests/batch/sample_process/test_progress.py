"""The progress of a run as phases for the supervisor."""

from __future__ import annotations

from wbcpipe.acquire.supervise.messages import TAKING_FIELDS
from wbcpipe.batch.sample_process.messages import PhaseReport
from wbcpipe.batch.sample_process.progress import SampleProgress
from wbcpipe.pipeline import WRITING_REPORT


class Link:
    def __init__(self) -> None:
        self.sent: list[PhaseReport] = []

    def send(self, message: object) -> None:
        assert isinstance(message, PhaseReport)
        self.sent.append(message)


def test_each_line_and_task_of_a_run_belongs_to_a_phase() -> None:
    link, asked = Link(), list[str]()
    progress = SampleProgress(link, asked.append)
    progress.enter("opening")
    progress.say("loading slide 4 by prompt")
    progress.confirm("put slide 4 onto the stage")
    progress.say("opening demo")
    progress.say("finding the focus at 9 points")
    assert progress.first_field_s is None
    progress.say(TAKING_FIELDS)
    assert progress.first_field_s is not None
    progress.update("fields taken and segmented", 1, 2)
    progress.update("cells counted", 3, 10)
    progress.update("first fields segmented", 1, 1)
    progress.update("fields taken and segmented", 2, 2)
    progress.confirm("stain the slide")
    progress.say("incubating for 3 s")
    progress.enter("segmenting")
    progress.update("compiling virtual-shufflenet", 0, 1)
    progress.start_phase("loading the model")
    progress.start_phase(WRITING_REPORT)
    phases = [report.phase for report in link.sent]
    assert list(dict.fromkeys(phases)) == [
        "opening",
        "loading the slide",
        "focusing",
        "scanning",
        "staining",
        "segmenting",
        "classifying",
        "reporting",
    ]
    last = [report for report in link.sent if report.phase == "scanning"][-1]
    assert (last.done, last.total, last.cells) == (2, 2, 3)
    assert asked == ["put slide 4 onto the stage", "stain the slide"]
    figures = progress.figures
    assert (figures["fields"], figures["cells"]) == (2, 3)
    assert {"opening_s", "focusing_s", "scanning_s", "reporting_s"} <= set(figures)

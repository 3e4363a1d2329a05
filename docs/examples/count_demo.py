"""Count the white cells of a virtual slide: `python count_demo.py [DATA [SCOPE [FIELDS]]]`.

A real Micro-Manager core drives a virtual microscope. Interrupt it and run it again: it resumes.
"""

import logging
import sys

import wbcpipe


def main(data: str = "wbc-data", scope: str = "demo", fields: str = "20") -> None:
    """Scan, segment, classify and report; show the log and the progress."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    request = wbcpipe.ScanRequest.from_scope(wbcpipe.load_scope(scope), fields=int(fields))
    found = wbcpipe.run(
        wbcpipe.Sample.open(data, "demo"),
        request,
        reporter=wbcpipe.CallbackReporter(
            progress=lambda task, done, total: print(f"{task}: {done} of {total}")
        ),
    )
    for line in found.classes:
        low, high = line.interval_percent
        print(
            f"{line.name}: {line.count} cells, {line.percent or 0:.1f} % ({low:.1f} to {high:.1f})"
        )


if __name__ == "__main__":  # child processes import this file
    main(*sys.argv[1:])

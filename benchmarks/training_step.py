"""Time a step of training in channels-last memory against torchvision's layers.

    python benchmarks/training_step.py [--sides 32 64 112] [--batch 32] [--repeats 5] [--json]

MM-MIMO of four modalities on one thread of the processor. Both networks take the same steps in
turn; of the repeats the fastest counts.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from wbcpipe import __version__
from wbcpipe.classify.networks import build_network, keep_channels_last

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.classify.networks import FusionNetwork


def step_of(
    network: FusionNetwork, images: torch.Tensor, labels: torch.Tensor
) -> Callable[[], None]:
    """Return a function that makes one step of training on the same batch."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = network(images)
        functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        optimizer.step()

    return step


def milliseconds(step: Callable[[], None], steps: int) -> float:
    """Return the time of the processor for one step."""
    step()
    began_s = time.process_time()
    for _ in range(steps):
        step()
    return 1e3 * (time.process_time() - began_s) / steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 112])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for side in options.sides:
        network = build_network("mm-mimo", "shufflenet_v2_x1_0", 4, 1, 5)
        network = network.to(memory_format=torch.channels_last)
        images = torch.randn(options.batch, 4, side, side)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(5, (options.batch, 4))
        pair = (network, keep_channels_last(copy.deepcopy(network)))
        steps = [step_of(one, images, labels) for one in pair]
        count = max(2, 320 // side)
        times = [[milliseconds(step, count) for step in steps] for _ in range(options.repeats)]
        before, now = (min(column) for column in zip(*times, strict=True))
        rows.append(
            {
                "side": side,
                "torchvision_ms": round(before, 1),
                "channels_last_ms": round(now, 1),
                "ratio": round(now / before, 2),
            }
        )
    if options.json:
        versions = {"wbcpipe": __version__, "torch": torch.__version__}
        cpu = platform.processor() or platform.machine()
        print(json.dumps({"name": "training_step", "rows": rows, "versions": versions, "cpu": cpu}))
        return
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()

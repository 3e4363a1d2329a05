"""A night in small.

Twelve slides, every kind of fault, `kill -9` at random moments, and what it cost.

    python benchmarks/night.py                  # the pace alone, 3 minutes; --part night takes ten
    python benchmarks/night.py [--kills 10] [--fields 16] [--pace-slides 4] [--pace-fields 24]
        [--seed 1] [--part pace|night|both] [--full] [--keep DIR] [--json]

`wbcpipe batch run` runs a worklist on the virtual scope three times:

1. undisturbed;
2. with faults: a driver crashes, one hangs, the camera is late, the lamp is dark for a moment and
   for good, a label names another slide, the disk (a small tmpfs) is full and freed later, a
   process grows beyond its memory limit once and for ever, one is killed as the kernel does for
   want of memory, one stands still; and the supervisor, its children, or everything at once are
   killed at random moments, each time followed by the same command;
3. with long exposures, to compare its pace with that of the bare acquisition of the same slides.

Every slide must be finished or quarantined with its true reason; a finished one must equal that of
the first run to the last bit; nothing may be left over. The dye does not bleach here, so that a
field that is taken again is the same.

The ratio is the pace of the third run over that of the bare acquisition.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import getpass
import importlib.metadata
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wbcpipe import __version__
from wbcpipe.acquire.simulation.faults import Fault, FaultyOpener, read_strikes
from wbcpipe.system.signals import install_stop_handlers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.plan import PlannedPass
    from wbcpipe.acquire.simulation.faults import FaultyScope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.batch.records import Heartbeat, JournalEntry, Phase
    from wbcpipe.batch.row_status import RowStatus
    from wbcpipe.batch.state.batch_folder import BatchFolder

CONFIGS: Final = Path(__file__).parents[1] / "hardware_configs"
PIXEL_UM: Final = 0.2
SIDE_PX: Final = 512
RETRIES: Final = 3
#: Of a process with its children; what grows takes so much more.
MEMORY_LIMIT_MB: Final = 2600
GROWTH_MB: Final = 2800
#: Longest time without progress that the supervisor allows here; a night allows minutes.
LIMIT_S: Final = 60.0
MAX_STARTS: Final = 60
#: In the environment of every process of a run: so they are found, whoever their parent is.
MARK: Final = "WBCPIPE_BENCHMARK_NIGHT"
FOR_GOOD: Final = 10_000
#: The check of a night wants 500 MiB to stay free.
SPARE_BYTES: Final = 768 * 2**20
#: A slide of a real night, for the pace that the measured idle time gives there.
LONG_SLIDE_MIN: Final = 10
KILLS: Final = ("the supervisor", "its children", "everything")


@dataclasses.dataclass(frozen=True)
class Slide:
    """A slide of the night.

    Attributes:
        what: is wrong with it.
        faults: of the microscope while it is scanned.
        grows: so many times the process that takes it uses too much memory.
        blow: what this script does to its process while it is scanned.
        ends: its state in the end.
        errors: that its attempts may fail with, besides the kills; the last one is that of its
            quarantine.
        words: of the reason of its quarantine.
        noted: events in its log.
    """

    what: str
    faults: tuple[Fault, ...] = ()
    grows: int = 0
    blow: str = ""
    ends: str = "finished"
    errors: tuple[str, ...] = ()
    words: str = ""
    noted: tuple[str, ...] = ()


SLIDES: Final[dict[str, Slide]] = {
    "S01": Slide("nothing"),
    "S02": Slide("a native driver crashes", (Fault("driver crash", 5),), noted=("restarted",)),
    "S03": Slide("a driver hangs", (Fault("driver hangs", 4),), noted=("restarted",)),
    "S04": Slide(
        "the camera is late",
        tuple(Fault("camera time-out", n, 2) for n in (3, 9)),
        noted=("retry",),
    ),
    "S05": Slide(
        "the lamp is dark for a moment", (Fault("lamp dark", 6, 2, "color2"),), noted=("retry",)
    ),
    "S06": Slide(
        "the lamp is dark for good",
        tuple(Fault("lamp dark", n, FOR_GOOD, "color1") for n in range(2, 200)),
        ends="quarantined",
        errors=("HardwareError", "AcquisitionError"),
        words="the frame is dark",
    ),
    "S07": Slide(
        "the label is that of another slide",
        (Fault("wrong label", 0, FOR_GOOD),),
        ends="quarantined",
        errors=("IdentityError",),
        words="the label reads 'ANOTHER-SLIDE', slide 'L-S07' is expected",
    ),
    "S08": Slide("the disk is full for a while", blow="disk full"),
    "S09": Slide("too much memory, once", grows=1, errors=("MemoryLimitError",)),
    "S10": Slide(
        "too much memory, always",
        grows=FOR_GOOD,
        ends="quarantined",
        errors=("MemoryLimitError",),
        words="--memory-limit allows",
    ),
    "S11": Slide(
        "killed as for want of memory",
        blow="SIGKILL",
        errors=("ProcessKilledError", "OutOfMemoryError"),
    ),
    "S12": Slide("its process stands still", blow="SIGSTOP", errors=("ProcessHungError",)),
}


@dataclasses.dataclass(frozen=True)
class NightOpener:
    """Opens the microscope for a slide, with its faults; picklable.

    Attributes:
        faulty: see `FaultyOpener`.
        grows: so many times the process takes memory that it does not need.
    """

    faulty: FaultyOpener
    grows: int = 0

    def __call__(
        self,
        scope: Scope,
        specimen: SpecimenPlan | None = None,
        planned: PlannedPass | None = None,
        /,
    ) -> FaultyScope:
        """See `open_microscope`."""
        times = self.faulty.journal.with_suffix(".grown")
        grown = len(times.read_text(encoding="utf-8")) if times.exists() else 0
        microscope = self.faulty(scope, specimen, planned)
        if grown < self.grows:
            times.write_text("x" * (grown + 1), encoding="utf-8")
            microscope.leak = bytearray(b"x") * (GROWTH_MB * 2**20)  # type: ignore[attr-defined]
        return microscope


# The files of a run.


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a worklist.

    Attributes:
        folder: of the scope file, the worklist and what the faults note.
        data: data root.
        slides: names; the part of the night that is scanned.
        faulty: with the faults.
        seed: of the specimens.
        settle_ms: wait after each move of the stage.
        check: the microscope is checked before the first slide.
    """

    folder: Path
    data: Path
    slides: tuple[str, ...]
    fields: int
    faulty: bool
    seed: int
    settle_ms: float
    check: bool

    @property
    def worklist(self) -> Path:
        return self.folder / "night.csv"

    @property
    def batch(self) -> BatchFolder:
        from wbcpipe.batch.state.batch_folder import BatchFolder

        return BatchFolder.open(self.data, "night")

    def write(self) -> None:
        """Write the scope file and the worklist."""
        for name in ("data", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        write_scope(self)
        lines = ["sample,slide,slot,fields,specimen_seed"]
        lines += [
            f"{name},L-{name},{name},{self.fields},{self.seed + n}"
            for n, name in enumerate(self.slides)
        ]
        self.worklist.write_text("\n".join(lines) + "\n", encoding="utf-8")
        content = {**dataclasses.asdict(self), "folder": str(self.folder), "data": str(self.data)}
        (self.folder / "run.json").write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Run:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        paths = {
            "folder": Path(content["folder"]),
            "data": Path(content["data"]),
            "slides": tuple(content["slides"]),
        }
        return cls(**{**content, **paths})

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "TMPDIR": str(self.folder / "tmp"),
            MARK: self.mark,
            "PYTHONUNBUFFERED": "1",
        }

    @property
    def mark(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, str(self.folder)))


def write_scope(run: Run) -> None:
    """Write the demo scope with a smaller sensor of larger pixels, and a slot for each slide."""
    toml = (CONFIGS / "demo.toml").read_text(encoding="utf-8")
    cfg = (CONFIGS / "demo.cfg").read_text(encoding="utf-8")
    half_um = 0.5 * SIDE_PX * PIXEL_UM * (run.fields**0.5 + 3)
    slots = "".join(
        f"[slots.{name}]\nx_um = [{x_um - half_um:.1f}, {x_um + half_um:.1f}]\n"
        f"y_um = [{-half_um:.1f}, {half_um:.1f}]\n\n"
        for name, x_um in zip(SLIDES, range(-9_000, 10_000, 1_500), strict=False)
    )
    old_slots = toml[toml.index("[slots.A]") : toml.index("[focus]")]
    for old, new in (
        (old_slots, slots),
        ("[2048, 2048]", f"[{SIDE_PX}, {SIDE_PX}]"),
        ("Size,2048", f"Size,{SIDE_PX}"),
        ("pixel_um = 0.1 ", f"pixel_um = {PIXEL_UM} "),
        ('config = "demo.cfg"', 'config = "night.cfg"'),
        (
            "exposure_ms = 5.0",
            "exposure_ms = 1.25",
        ),  # a pixel of twice the side has four times the light
        ("exposure_ms = 20.0", "exposure_ms = 5.0"),
        ("spacing_um = 500.0", f"spacing_um = {2 * half_um:.0f}.0"),
        (
            toml[toml.index("[label]") : toml.index('# method = "camera"')],
            '[label]\nmethod = "camera"\ndevice = "Label Camera"\n',
        ),
        ("settle_ms = 0.0", f"settle_ms = {run.settle_ms}"),
        ("move_timeout_s = 30.0", "move_timeout_s = 5.0"),
        ("camera_timeout_s = 10.0", "camera_timeout_s = 2.0"),
        ("retry_wait_s = 0.5", "retry_wait_s = 0.0"),
        ("skip_empty = true", "skip_empty = false"),
    ):
        assert old in toml + cfg, old
        toml, cfg = toml.replace(old, new), cfg.replace(old, new)
    (run.folder / "night.toml").write_text(toml, encoding="utf-8")
    (run.folder / "night.cfg").write_text(cfg, encoding="utf-8")


def drive(folder: Path) -> None:
    """Run the command, with the faults of its slides."""
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.acquire.plan import AcquisitionPlan
    from wbcpipe.batch.supervise import options
    from wbcpipe.pipeline import main

    run = Run.read(folder)
    scope = load_scope(str(folder / "night.toml"))
    openers = {}
    for name in run.slides:
        slide = SLIDES[name] if run.faulty else SLIDES["S01"]
        plan = AcquisitionPlan.from_scope(scope, name)
        faulty = FaultyOpener(plan, slide.faults, folder / f"{name}.strikes", bleaching=False)
        openers[name] = NightOpener(faulty, slide.grows)
    limits_s: dict[Phase, float] = {
        "scanning": LIMIT_S,
        "segmenting": LIMIT_S,
        "classifying": LIMIT_S,
        "reporting": LIMIT_S,
    }
    prepared = functools.partial(options.SupervisorOptions, openers=openers, limits_s=limits_s)
    options.SupervisorOptions = prepared  # type: ignore[assignment, misc]
    words = [
        "batch",
        "run",
        str(run.worklist),
        "--name",
        "night",
        "--data",
        str(run.data),
        "--json",
    ]
    words += ["--scope", str(folder / "night.toml"), "--retries", str(RETRIES)]
    words += ["--check" if run.check else "--no-check"]
    main([*words, "--memory-limit", f"{MEMORY_LIMIT_MB}MB"])


def scan_bare(folder: Path) -> None:
    """Take the fields of the slides one after the other and do nothing with them.

    Print the seconds by phase.
    """
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.acquire.open_microscope import specimen_for
    from wbcpipe.acquire.plan import AcquisitionPlan
    from wbcpipe.acquire.request import AcquisitionRequest
    from wbcpipe.acquire.supervise.messages import FieldTaken, Progress
    from wbcpipe.acquire.supervise.worker import AcquisitionWorker
    from wbcpipe.batch.sample_process.progress import SampleProgress
    from wbcpipe.samples.sample import Sample

    class Nobody:
        def send(self, message: object) -> None:
            del message

    run = Run.read(folder)
    scope = load_scope(str(folder / "night.toml"))
    figures = {}
    for number, name in enumerate(run.slides):
        plan = AcquisitionPlan.from_scope(scope, name)
        sample = Sample.open(run.data / "bare", name)
        opener = FaultyOpener(plan, (), folder / "bare.strikes", bleaching=False)
        request = AcquisitionRequest(
            sample,
            scope,
            plan,
            specimen_for(scope, run.seed + number, None),
            microscope=opener,
            slide=f"L-{name}",
        )
        progress = SampleProgress(Nobody(), lambda _: None)
        with sample.lock("bare"), AcquisitionWorker(request) as worker:
            worker.request_fields(run.fields)
            progress.enter("opening")
            taken = 0
            for event in worker.events():
                if isinstance(event, Progress):
                    progress.say(event.text)
                elif isinstance(event, FieldTaken):
                    taken += 1
                    progress.update("fields, ", taken, run.fields)
            figures[name] = progress.figures
    (folder / "bare.json").write_text(json.dumps(figures), encoding="utf-8")


def command(what: str, folder: Path) -> list[str]:
    """Return the words that run a function of this file.

    Its children must not run the file again.
    """
    code = (
        f"import sys; sys.path.insert(0, sys.argv[1]); import night; "
        f"night.{what}(night.Path(sys.argv[2]))"
    )
    return [sys.executable, "-c", code, str(Path(__file__).parent), str(folder)]


# Watch a run, and strike.


def marked(mark: str) -> list[int]:
    """Return the processes of a run, whoever their parent is; not those that have ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            words = (entry / "environ").read_bytes().split(b"\0")
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if f"{MARK}={mark}".encode() in words and state not in "ZX":
                found.append(int(entry.name))
    return found


def resident_mb(pid: int) -> float:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
    return 0.0


def send_signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@dataclasses.dataclass
class Watch:
    """Runs the command until it ends by itself, and strikes meanwhile.

    Attributes:
        kills: whom to kill, in this order.
        rng: of the moments.
        apart_s: the moments are so far apart at most.
        exits: exit code of each start.
        struck: what was done: seconds since the beginning, what, and the samples that it hit.
        memory: process, samples done, resident MB of the supervisor.
    """

    run: Run
    kills: list[str]
    rng: random.Random
    apart_s: float
    exits: list[int] = dataclasses.field(default_factory=list)
    struck: list[tuple[float, str, tuple[str, ...]]] = dataclasses.field(default_factory=list)
    memory: list[tuple[int, int, float]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    _blown: set[str] = dataclasses.field(default_factory=set)
    _full_until_s: float = 0.0

    def to_end(self) -> int:
        """Give the command until it ends by itself; return its exit code."""
        began_s = time.monotonic()
        log = (self.run.folder / "command.log").open("a", encoding="utf-8")
        with log:
            for _ in range(MAX_STARTS):
                words, environment = command("drive", self.run.folder), self.run.environment()
                process = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
                with process, self._nothing_left_running():
                    self._next_s = time.monotonic() + self.rng.uniform(2.0, self.apart_s)
                    while process.poll() is None:
                        self._look(process, began_s)
                        time.sleep(0.1)
                self.exits.append(process.returncode)
                if process.returncode != -signal.SIGKILL:
                    break
        self.seconds = time.monotonic() - began_s
        return self.exits[-1]

    @contextlib.contextmanager
    def _nothing_left_running(self) -> Iterator[None]:
        """End the processes of the run if this script is interrupted."""
        try:
            yield
        except BaseException:
            send_signal(marked(self.run.mark), signal.SIGKILL)
            raise

    def _look(self, process: subprocess.Popen[bytes], began_s: float) -> None:
        now_s = time.monotonic()
        done = self._entries(("finished", "quarantined"))
        self.memory.append(
            (process.pid, len({entry.sample for entry in done}), resident_mb(process.pid))
        )
        if self._full_until_s:
            if now_s > self._full_until_s or len(self._entries(("disk_low",))) > 0:
                (self.run.data / "ballast").unlink()
                self._full_until_s = 0.0
                self._next_s = now_s + self.rng.uniform(1.0, self.apart_s)
            return
        if self.run.faulty:
            self._blow(now_s - began_s)
        if self.kills and now_s >= self._next_s:
            self._kill(process, self.kills.pop(0), now_s - began_s)
            self._next_s = now_s + self.rng.uniform(2.0, self.apart_s)

    def _entries(self, events: tuple[str, ...]) -> list[JournalEntry]:
        return [entry for entry in self.run.batch.journal() if entry.event in events]

    def _heartbeat(self) -> Heartbeat | None:
        return self.run.batch.heartbeat()

    def _kill(self, process: subprocess.Popen[bytes], whom: str, at_s: float) -> None:
        everything = marked(self.run.mark)
        children = [pid for pid in everything if pid != process.pid]
        heartbeat = self._heartbeat()
        samples = (
            tuple(one.sample for one in heartbeat.processes)
            if heartbeat and heartbeat.pid == process.pid
            else ()
        )
        self.struck.append((round(at_s, 1), f"kill -9 {whom}", samples))
        if whom != "its children":
            process.kill()
        if whom != "the supervisor":
            send_signal(children, signal.SIGKILL)

    def _blow(self, at_s: float) -> None:
        """Strike the process of a sample while it takes fields."""
        for name, slide in SLIDES.items():
            if not slide.blow or name in self._blown or name not in self.run.slides:
                continue
            taken = len(list((self.run.data / name / "raw" / "single").glob("field_*.ome.tif")))
            if not 2 <= taken < self.run.fields:
                continue
            heartbeat = self._heartbeat()
            processes = {one.sample: one.pid for one in heartbeat.processes} if heartbeat else {}
            if name not in processes:
                continue
            self._blown.add(name)
            self.struck.append((round(at_s, 1), slide.blow, (name,)))
            if slide.blow == "disk full":
                fill(self.run.data / "ballast")
                self._full_until_s = time.monotonic() + 20.0
            else:
                send_signal([processes[name]], signal.Signals[slide.blow])


def fill(path: Path) -> None:
    """Write until nothing more goes onto the disk."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as handle:
        block = bytes(2**20)
        while True:
            handle.write(block)
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as handle:
        while True:
            handle.write(bytes(512))


@contextlib.contextmanager
def small_disk(folder: Path, n_bytes: int) -> Iterator[bool]:
    """Put a small file system of its own at ``folder``; yield false where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "none", str(folder)]
    mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


# What is left, and what differs.


def shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def mapped_files() -> set[tuple[int, int]]:
    """Return device and inode of each file that a living process has mapped."""
    lines = [
        line.split(maxsplit=5)
        for maps in Path("/proc").glob("[0-9]*/maps")
        for line in read_text(maps).splitlines()
    ]
    return {
        (os.makedev(*(int(part, 16) for part in line[3].split(":"))), int(line[4]))
        for line in lines
        if len(line) > 4
    }


def read_text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def left_over(run: Run, shared_before: set[str]) -> dict[str, list[str]]:
    """Return what a run that has ended left behind: processes, locks, shared memory and temporary
    files.
    """
    from wbcpipe.system.locks import try_lock

    until_s = time.monotonic() + 3.0
    while (processes := marked(run.mark)) and time.monotonic() < until_s:
        time.sleep(0.1)
    held: list[str] = []
    for root in (run.data, run.folder / "tmp"):
        for path in [*root.rglob("lock"), *root.rglob("*.lock")]:
            with try_lock(path) as free:
                if not free:
                    held.append(str(path))
    mapped = mapped_files()
    shared = []
    for name in shared_memory() - shared_before:
        with contextlib.suppress(FileNotFoundError):
            status = Path("/dev/shm", name).stat()
            if (status.st_dev, status.st_ino) not in mapped:
                shared.append(name)
    asides = [
        path
        for path in run.data.rglob("*")
        if "partial" in path.name or path.suffix in (".tmp", ".aside")
    ]
    inbox = list((run.batch.path / "inbox").iterdir())
    # torch keeps a folder for compiled code there, the same for every process and empty here.
    kept = ("wbcpipe-locks", f"torchinductor_{getpass.getuser()}")
    temporary = [path for path in (run.folder / "tmp").iterdir() if path.name not in kept]
    return {
        "processes": [
            read_text(Path(f"/proc/{pid}/cmdline")).replace("\0", " ")[:120] for pid in processes
        ],
        "locks": held,
        "shared_memory": shared,
        "temporary_files": [str(path) for path in (*asides, *inbox, *temporary)],
    }


def differing(whole: Path, broken: Path) -> list[str]:
    """Return what differs between two samples: cells, pixels, differential.

    Times, processes and hosts aside.
    """
    from kill_and_resume import differences
    from soak import pixel_hashes

    found = differences(whole, broken)
    expected, pixels = (pixel_hashes(sample / "raw" / "single") for sample in (whole, broken))
    differ = sorted(
        index for index in {*expected, *pixels} if expected.get(index) != pixels.get(index)
    )
    return found + [f"field {index}" for index in differ]


def snapshot(run: Run) -> dict[str, tuple[int, int]]:
    """Return size and time of each file of the samples."""
    files = [path for name in run.slides for path in (run.data / name).rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def judge(watch: Watch, whole: Run) -> list[dict[str, Any]]:
    """Compare the end of each slide with what it must be.

    A slide's ``problems`` say what is not as it must be.
    """
    rows = []
    for name, status in watch.run.batch.status().items():
        problems = [*judge_end(watch.run, name, status), *judge_attempts(watch, name)]
        if status.state == SLIDES[name].ends == "finished":
            problems += [
                f"differs: {one}" for one in differing(whole.data / name, watch.run.data / name)
            ]
        row = {
            "sample": name,
            "what": SLIDES[name].what,
            "state": status.state,
            "attempts": status.attempts,
        }
        rows.append({**row, "reason": status.reason, "problems": problems})
    return rows


def judge_end(run: Run, name: str, status: RowStatus) -> Iterator[str]:
    """Yield what is wrong with the state of a slide, its reason, and what was noted of its
    faults.
    """
    slide = SLIDES[name]
    if status.state != slide.ends:
        yield f"is {status.state}, not {slide.ends}: {status.reason}"
    if slide.ends == "quarantined" and (
        status.error not in slide.errors or slide.words not in status.reason
    ):
        yield f"is quarantined for {status.error}, and its reason lacks {slide.words!r}"
    struck = read_strikes(run.folder / f"{name}.strikes")
    for fault in slide.faults:
        if fault not in struck and fault.attempts < FOR_GOOD:
            yield f"its fault, {fault.kind}, never struck"
    events = {
        json.loads(line)["event"] for line in read_text(run.data / name / "log.jsonl").splitlines()
    }
    yield from (f"its log lacks {event!r}" for event in slide.noted if event not in events)


def judge_attempts(watch: Watch, name: str) -> Iterator[str]:
    """Yield what is wrong with the attempts that failed: each must be of the slide's own fault, or
    of a kill.
    """
    errors = SLIDES[name].errors
    failed = [
        entry
        for entry in watch.run.batch.journal()
        if (entry.event, entry.sample) == ("attempt_failed", name)
    ]
    if errors and not any(entry.error in errors for entry in failed):
        yield f"no attempt failed with {' or '.join(errors)}"
    others = [entry for entry in failed if entry.error not in errors]
    kills = sum(
        name in samples for _, what, samples in watch.struck if what == "kill -9 its children"
    )
    if len(others) > kills:
        yield f"{len(others)} attempts failed, but it was killed {kills} times"
    for entry in others:
        if "SIGKILL" not in entry.reason:
            yield f"an attempt failed for another reason: {entry.error}: {entry.reason}"


def growth_mb(watch: Watch) -> tuple[int, float, float]:
    """Return of the supervisor that saw most samples end: how many, and its MB after two of them
    and at its end.
    """
    seen = {pid: {n for one, n, _ in watch.memory if one == pid} for pid, _, _ in watch.memory}
    pid = max(seen, key=lambda one: len(seen[one]))
    points = [(done, used) for which, done, used in watch.memory if which == pid and used]
    first, last = points[0][0], points[-1][0]
    after_two = [used for done, used in points if done == min(first + 2, last)]
    return last - first, round(max(after_two), 1), round(points[-1][1], 1)


# The two parts.


def run_night(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run the night undisturbed and with faults; return what is to be shown."""
    names, whole_home, home = tuple(SLIDES), folder / "whole", folder / "broken"
    whole = Run(
        whole_home, whole_home / "data", names, options.fields, False, options.seed, 0.0, True
    )
    broken = Run(home, home / "data", names, options.fields, True, options.seed, 0.0, options.full)
    whole.write()
    undisturbed = Watch(whole, [], random.Random(options.seed), 10.0)
    if code := undisturbed.to_end():
        raise SystemExit(
            f"the undisturbed night ended with {code}: "
            f"{read_text(whole.folder / 'command.log')[-2000:]}"
        )
    rng = random.Random(options.seed)
    kills = [KILLS[number % len(KILLS)] for number in range(options.kills)]
    rng.shuffle(kills)
    n_bytes = len(SLIDES) * options.fields * 4 * 2 * SIDE_PX**2 * 2 + SPARE_BYTES
    with small_disk(broken.data, n_bytes) as small:
        broken.write()
        watch = Watch(
            broken, kills, rng, max(1.5 * undisturbed.seconds / max(options.kills, 1), 10.0)
        )
        try:
            result = broken_night(watch, whole)
        finally:
            if options.keep:
                subprocess.run(
                    ["cp", "-a", str(broken.data), str(folder / "broken" / "kept")], check=True
                )
    return {
        "undisturbed_s": round(undisturbed.seconds, 1),
        "memory_undisturbed": growth_mb(undisturbed),
        "disk": "a tmpfs, filled to the last byte"
        if small
        else "not shown: no file system could be mounted",
        **result,
    }


def broken_night(watch: Watch, whole: Run) -> dict[str, Any]:
    """Run the night with faults, and once more when it has ended."""
    run, shared_before = watch.run, shared_memory()
    code = watch.to_end()
    left = left_over(run, shared_before)
    rows = judge(watch, whole)
    before, entries = snapshot(run), len(run.batch.journal())
    again = Watch(run, [], random.Random(0), 10.0)
    again_code = again.to_end()
    journal = run.batch.journal()
    return {
        "night_s": round(watch.seconds, 1),
        "exit_codes": watch.exits,
        "struck": watch.struck,
        "kills_left": watch.kills,
        "slides": rows,
        "disk_events": [
            entry.event for entry in journal if entry.event in ("disk_low", "disk_freed")
        ],
        "left_over": left,
        "memory_night": growth_mb(watch),
        "again": {
            "seconds": round(again.seconds, 1),
            "same_exit_code": again_code == code,
            "files_changed": snapshot(run) != before,
            "journal": [entry.event for entry in journal[entries:]],
        },
    }


def run_pace(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run a batch whose microscope takes its time, and the bare acquisition of the same slides."""
    names, home = tuple(SLIDES)[: options.pace_slides], folder / "pace"
    run = Run(
        home,
        home / "data",
        names,
        options.pace_fields,
        False,
        options.seed,
        options.settle_ms,
        True,
    )
    run.write()
    bare_words = command("scan_bare", run.folder)
    subprocess.run(bare_words, env=run.environment(), check=True, stdout=subprocess.DEVNULL)
    bare = json.loads((run.folder / "bare.json").read_text(encoding="utf-8"))
    watch = Watch(run, [], random.Random(options.seed), 10.0)
    if code := watch.to_end():
        raise SystemExit(
            f"the night of the pace ended with {code}: "
            f"{read_text(run.folder / 'command.log')[-2000:]}"
        )
    scans = {
        entry.sample: entry.figures
        for entry in run.batch.journal()
        if entry.event == "scan_finished"
    }
    last_s = {
        name: max(path.stat().st_mtime for path in (run.data / name).rglob("field_*.ome.tif"))
        for name in names
    }
    first_s = {
        name: min(path.stat().st_mtime for path in (run.data / name).rglob("field_*.ome.tif"))
        for name in names
    }
    rows: list[dict[str, Any]] = []
    for before, name in zip((None, *names), names, strict=False):
        out_s = (run.data / name / "differential.json").stat().st_mtime - last_s[name]
        field_s = scans[name]["scanning_s"] / options.pace_fields
        rows.append(
            {
                "sample": name,
                "bare_s": round(bare[name]["focusing_s"] + bare[name]["scanning_s"], 2),
                "scan_s": round(scans[name]["focusing_s"] + scans[name]["scanning_s"], 2),
                "opening_s": round(scans[name]["opening_s"], 2),
                "journal_idle_s": scans[name].get("idle_s"),
                "idle_s": before
                and round(first_s[name] - last_s[before] - scans[name]["focusing_s"] - field_s, 2),
                "field_s": round(field_s, 3),
                "report_s": round(out_s, 2),
                "report_fields": round(out_s / field_s, 1),
            }
        )
    bare_s, scan_s = (sum(row[key] for row in rows[1:]) for key in ("bare_s", "scan_s"))
    span_s = last_s[names[-1]] - last_s[names[0]]
    idle_s = [row["idle_s"] for row in rows[1:]]
    long_s = 60.0 * LONG_SLIDE_MIN
    return {
        "rows": rows,
        "slides_per_hour": round(3600 * (len(names) - 1) / span_s, 1),
        "bare_slides_per_hour": round(3600 * (len(names) - 1) / bare_s, 1),
        "pace": round(bare_s / span_s, 3),
        "scan_against_bare": round(bare_s / scan_s, 3),
        "max_idle_s": max(idle_s, default=None),
        "pace_at_10_min_a_slide": round(
            long_s / (long_s * scan_s / bare_s + max(idle_s, default=0.0)), 3
        ),
    }


def find_problems(result: dict[str, Any]) -> Iterator[str]:
    """Yield what is not as it must be."""
    if night := result.get("night"):
        yield from (
            f"{row['sample']} {text}" for row in night["slides"] for text in row["problems"]
        )
        yield from (
            f"left over: {what} {names}" for what, names in night["left_over"].items() if names
        )
        if night["kills_left"]:
            yield f"{len(night['kills_left'])} kills did not take place"
        for which in ("memory_undisturbed", "memory_night"):
            _, first, end = night[which]
            if end > 1.1 * first + 5.0:
                yield f"{which}: {first} MB grew to {end} MB"
        again = night["again"]
        told = [
            event for event in again["journal"] if event != "may_sleep"
        ]  # a computer that cannot be kept awake
        if (
            not again["same_exit_code"]
            or again["files_changed"]
            or told != ["batch_resumed", "batch_ended"]
        ):
            yield f"the same command did something: {again}"
        # More than one row may have found it full.
        events = night["disk_events"]
        if night["disk"].startswith("a tmpfs") and events != [
            *(["disk_low"] * max(1, len(events) - 1)),
            "disk_freed",
        ]:
            yield f"the full disk was told as {night['disk_events']}"
    if pace := result.get("throughput"):
        yield from (
            f"idle {row['idle_s']} s before {row['sample']}"
            for row in pace["rows"]
            if (row["idle_s"] or 0) > 5
        )


def show(result: dict[str, Any]) -> None:
    if night := result.get("night"):
        print(
            f"12 slides of {result['fields']} fields: undisturbed {night['undisturbed_s']} s, "
            f"with all that happened"
        )
        print(f"{night['night_s']} s; exit codes of the command: {night['exit_codes']}\n")
        for row in night["slides"]:
            print(
                f"{row['sample']}  {row['what']:<36}{row['state']:<12} {row['attempts']} attempts "
                f"failed"
            )
            for text in ([row["reason"]] if row["state"] != "finished" else []) + row["problems"]:
                print(f"       {text[:300]}")
        print()
        for at_s, what, samples in night["struck"]:
            print(f"{at_s:8.1f} s  {what:<24} {' '.join(samples)}")
        for key in (
            "disk",
            "disk_events",
            "left_over",
            "memory_undisturbed",
            "memory_night",
            "again",
        ):
            print(f"{key.replace('_', ' '):<20} {night[key]}")
        print()
    if pace := result.get("throughput"):
        print("".join(f"{name.replace('_', ' '):>16}" for name in pace["rows"][0]))
        for row in pace["rows"]:
            print("".join(f"{'-' if value is None else value:>16}" for value in row.values()))
        for key, value in pace.items():
            if key != "rows":
                print(f"{key.replace('_', ' '):<24} {value}")
    print("\nproblems:", "; ".join(result["problems"]) or "none")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--fields", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--full", action="store_true", help="more fields, 20 kills, longer slides for the pace"
    )
    parser.add_argument("--part", choices=["night", "pace", "both"], default="pace")
    parser.add_argument("--pace-slides", type=int, default=4)
    parser.add_argument("--pace-fields", type=int, default=24)
    parser.add_argument(
        "--settle-ms", type=float, default=400.0, help="of the pace: the wait after each move"
    )
    parser.add_argument("--keep", type=Path, help="leave everything in this new folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    install_stop_handlers()
    if options.full:
        options.kills, options.fields, options.pace_slides, options.pace_fields = 20, 36, 6, 100
    with contextlib.ExitStack() as stack:
        if options.keep:
            options.keep.mkdir(parents=True)
        folder = (
            options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ).resolve()
        result: dict[str, Any] = {
            "name": "night",
            "ratio": None,
            "fields": options.fields,
            "seed": options.seed,
        }
        if options.part in ("both", "night"):
            result["night"] = run_night(folder, options)
        if options.part in ("both", "pace"):
            result["throughput"] = run_pace(folder, options)
            result["ratio"] = result["throughput"]["pace"]
    result["problems"] = list(find_problems(result))
    packages = ("pycromanager", "pymmcore", "mm-test-adapters", "torch")
    result["versions"] = {"wbcpipe": __version__, "python": platform.python_version()}
    result["versions"] |= {name: importlib.metadata.version(name) for name in packages}
    result["cpu"] = platform.processor() or platform.machine()
    print(json.dumps(result)) if options.json else show(result)
    return int(bool(result["problems"]))


if __name__ == "__main__":
    sys.exit(main())

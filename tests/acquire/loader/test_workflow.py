"""A slide is loaded once and never twice, whatever ends the process in between."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from wbcpipe.acquire.cli import acquire
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.config.slide_policies import Loader, SlidePlace
from wbcpipe.acquire.hardware.core_link import CoreLink
from wbcpipe.acquire.loader.checks import check_loader, live_loader_problems, load_request, slot_for
from wbcpipe.acquire.loader.cli import loader
from wbcpipe.acquire.loader.record import LoaderRecord, read_loader, write_loader
from wbcpipe.acquire.loader.workflow import LoadRequest, load_slide, state_slide, unload_slide
from wbcpipe.errors import (
    AcquisitionError,
    ConfigError,
    HardwareBusyError,
    InterruptedRunError,
    LoaderStateError,
)
from wbcpipe.samples.sample import Sample
from wbcpipe.system.shell import shell_word

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope

HOTEL = "Slide Hotel"


def step(
    value: str, device: str = HOTEL, key: str = "Label", wait_s: float = 0.0
) -> dict[str, Any]:
    return {"device": device, "property": key, "value": value, "wait_s": wait_s}


def with_loader(scope: Scope, **policy: Any) -> Scope:
    return scope.model_copy(update={"loader": Loader.model_validate(policy)})


def hotel(scope: Scope, *load: dict[str, Any], **more: Any) -> Scope:
    steps = load or (step("slide {number}"),)
    return with_loader(
        scope, method="devices", capacity=12, load=steps, unload=[step("no slide")], **more
    )


def robot(scope: Scope, program: str, **more: Any) -> Scope:
    """A robot that appends what it is told to the file ``moves``."""
    write = "import os, pathlib, sys; moves = pathlib.Path(sys.argv[1]).open('a')\n"
    write += "action, number = os.environ['WBCPIPE_ACTION'], os.environ['WBCPIPE_NUMBER']\n"
    write += "print(action, *sys.argv[2:], number, file=moves, flush=True)\n"
    command = [
        sys.executable,
        "-c",
        write + program,
        str(scope.path.parent / "moves"),
        "{slide}",
        "{slot}",
    ]
    return with_loader(
        scope, method="command", load_command=command, unload_command=command, **more
    )


def moves(scope: Scope) -> list[str]:
    path = scope.path.parent / "moves"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def refuse(message: str) -> None:
    raise AssertionError(message)


def load(
    scope: Scope,
    data: Path,
    slide: str,
    number: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    load_slide(LoadRequest(scope, data, slide, number), ask=refuse, say=say)


def test_slides_come_and_go_by_a_program_once(small_scope: Scope, tmp_path: Path) -> None:
    scope = robot(small_scope, "")
    load(scope, tmp_path, "S1; rm -rf /", 3)
    load(scope, tmp_path, "S1; rm -rf /", 3)  # it is there
    load(scope, tmp_path, "S2", 4)
    unload_slide(scope, tmp_path, ask=refuse, say=lambda _: None)
    unload_slide(scope, tmp_path, ask=refuse, say=lambda _: None)
    first = "S1; rm -rf / A 3"
    assert moves(scope) == [f"load {first}", f"unload {first}", "load S2 A 4", "unload S2 A 4"]
    assert read_loader(scope, tmp_path).state == "empty"


def test_slides_come_by_devices(small_scope: Scope, tmp_path: Path) -> None:
    scope = hotel(small_scope, handover_um=(0.0, -20000.0), handover_z_um=-50.0)
    said: list[str] = []
    load(scope, tmp_path, "S1", 7, said.append)
    assert said == [
        "loading slide S1 by devices",
        "loading step 1 of 1, Slide Hotel-Label = slide 7",
    ]
    record = read_loader(scope, tmp_path)
    assert (record.state, record.place) == ("loaded", SlidePlace(slide="S1", slot="A", number=7))


def test_an_operator_is_asked_and_a_no_leaves_the_record(
    small_scope: Scope, tmp_path: Path
) -> None:
    scope = with_loader(small_scope, method="prompt", slot="B")
    asked: list[str] = []
    request = LoadRequest(scope, tmp_path, "S1")

    def no(message: str) -> None:
        raise KeyboardInterrupt(message)

    with pytest.raises(KeyboardInterrupt):
        load_slide(request, ask=no, say=lambda _: None)
    assert read_loader(scope, tmp_path).state == "empty"
    load_slide(request, ask=asked.append, say=lambda _: None)
    load_slide(LoadRequest(scope, tmp_path, "S2"), ask=asked.append, say=lambda _: None)
    assert asked == [
        "Put slide S1 into slot B.",
        "Take slide S1 out of slot B.",
        "Put slide S2 into slot B.",
    ]


_CHILD = """
import sys
from pathlib import Path
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.config.slide_policies import Loader
from wbcpipe.acquire.loader.workflow import LoadRequest, load_slide
loader = Loader.model_validate_json(sys.argv[3])
scope = load_scope(sys.argv[1]).model_copy(update={"loader": loader})
request = LoadRequest(scope, Path(sys.argv[2]), "S1", 1)
load_slide(request, ask=print, say=lambda text: print(text, flush=True))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
@pytest.mark.parametrize("method", ["devices", "command"])
def test_a_kill_between_the_steps_is_told_and_nothing_is_loaded_twice(
    small_scope: Scope, tmp_path: Path, method: str
) -> None:
    if method == "devices":
        scope = hotel(small_scope, step("slide {number}", wait_s=30.0), step("no slide"))
    else:
        scope = robot(small_scope, "import time; time.sleep(30)")
    words = [
        sys.executable,
        "-c",
        _CHILD,
        str(scope.path),
        str(tmp_path),
        scope.loader.model_dump_json(),
    ]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stdout is not None
        if method == "devices":
            assert any("step 1 of 2" in line for line in child.stdout)
        else:
            until_s = time.monotonic() + 20
            while not moves(scope) and time.monotonic() < until_s:
                time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
        child.wait(10)
    if method == "devices":
        at = r"the process was stopped at loading step 1 of 2, Slide Hotel-Label = slide 1"
    else:
        at = "the process was stopped"
        assert moves(scope) == ["load S1 A 1"]
    for _ in range(2):
        with pytest.raises(
            LoaderStateError,
            match=rf"loading slide 'S1' .* did not end: {at}\. A slide may be half l",
        ):
            load(scope, tmp_path, "S1")
        hint = re.escape(f"wbcpipe loader state --scope {shell_word(scope.given)} --slide S1")
        with pytest.raises(LoaderStateError, match=hint):
            unload_slide(scope, tmp_path, ask=refuse, say=lambda _: None)
    assert len(moves(scope)) == (method == "command")
    state_slide(scope, tmp_path, SlidePlace(slide="S1", slot="A", number=1))
    load(scope, tmp_path, "S1")
    assert len(moves(scope)) == (method == "command")


def test_a_program_that_fails_leaves_a_slide_that_may_be_half_loaded(
    small_scope: Scope, tmp_path: Path
) -> None:
    scope = robot(small_scope, "print('the gripper lost it', file=sys.stderr); sys.exit(4)")
    with pytest.raises(
        LoaderStateError,
        match=r"ended with code 4: the gripper lost it\. A slide may be half loaded",
    ):
        load(scope, tmp_path, "S1")
    record = read_loader(scope, tmp_path)
    assert (record.state, record.step) == ("loading", "")
    assert "the gripper lost it" in record.reason
    with pytest.raises(LoaderStateError, match=r"did not end: .*the gripper lost it"):
        load(scope, tmp_path, "S2")
    assert len(moves(scope)) == 1


def test_a_slide_that_is_not_in_the_loader_moves_nothing(
    small_scope: Scope, tmp_path: Path
) -> None:
    scope = robot(small_scope, "sys.exit(9 if (action, sys.argv[2]) == ('load', 'S2') else 0)")
    scope = scope.model_copy(
        update={"loader": scope.loader.model_copy(update={"absent_codes": (9,)})}
    )
    load(scope, tmp_path, "S1")
    with pytest.raises(
        AcquisitionError, match=r"slide 'S2' is not in the loader: .* code 9.* Nothing was moved"
    ):
        load(scope, tmp_path, "S2")
    assert read_loader(scope, tmp_path).state == "empty", "the slide before was taken away"
    load(scope, tmp_path, "S3")
    assert moves(scope)[-1] == "load S3 A 1"


def test_without_unload_the_next_slide_takes_the_one_before_away(
    small_scope: Scope, tmp_path: Path
) -> None:
    both = robot(small_scope, "")
    scope = both.model_copy(
        update={"loader": both.loader.model_copy(update={"unload_command": ()})}
    )
    load(scope, tmp_path, "S1")
    unload_slide(scope, tmp_path, ask=refuse, say=lambda _: None)
    assert read_loader(scope, tmp_path).state == "loaded"
    load(scope, tmp_path, "S2")
    assert moves(scope) == ["load S1 A 1", "load S2 A 1"]


def test_a_device_that_refuses_leaves_the_others_as_they_are(
    small_scope: Scope, tmp_path: Path
) -> None:
    wrong = step("Perhaps", device="LED", key="Sequence")
    with pytest.raises(
        ConfigError, match=r"loader\.load\[1\]: LED-Sequence does not accept 'Perhaps'"
    ):
        load(hotel(small_scope, step("slide {number}"), wrong), tmp_path, "S1")
    assert read_loader(small_scope, tmp_path).state == "empty"
    crash = step("Dereference Null Pointer", device="Camera", key="SimulateCrash")
    with pytest.raises(
        LoaderStateError, match=r"died \(SIGSEGV\), at loading step 2 of 2.* left as they are\. "
    ):
        load(hotel(small_scope, step("slide {number}"), crash), tmp_path, "S1")
    assert read_loader(small_scope, tmp_path).step.startswith("loading step 2 of 2")


def test_ctrl_c_in_the_middle_is_recorded_and_before_it_nothing_has_begun(
    small_scope: Scope, tmp_path: Path
) -> None:
    def interrupt(at: str) -> Callable[[str], None]:
        def say(text: str) -> None:
            if text.startswith(at):
                raise KeyboardInterrupt

        return say

    scope = hotel(small_scope, step("slide {number}", wait_s=20.0))
    with pytest.raises(KeyboardInterrupt):
        load(scope, tmp_path, "S1", say=interrupt("loading slide"))
    assert read_loader(scope, tmp_path).state == "empty"
    with pytest.raises(
        InterruptedRunError, match=r"at loading step 1 of 1.*A slide may be half loaded"
    ):
        load(scope, tmp_path, "S1", say=interrupt("loading step 1"))
    assert read_loader(scope, tmp_path).state == "loading"


def test_two_processes_do_not_move_slides_at_once(small_scope: Scope, tmp_path: Path) -> None:
    scope = robot(small_scope, "")

    def meanwhile(_text: str) -> None:
        with pytest.raises(
            HardwareBusyError, match=rf"another process moves slides \(process {os.getpid()}"
        ):
            load(scope, tmp_path, "S2")

    load(scope, tmp_path, "S1", say=meanwhile)
    assert moves(scope) == ["load S1 A 1"]


@pytest.mark.parametrize(
    ("slide", "number", "words"),
    [
        ("-rf", 1, "the slide's id '-rf' is refused"),
        ("", 1, "the slide's id '' is refused"),
        ("a\nb", 1, "is refused: give 1 to 128 printable"),
        ("S1", 0, "needs the place of slide 'S1', from 1 to 12"),
        ("S1", 13, "at place 13 of the loader, which has places 1 to 12"),
    ],
)
def test_a_request_that_cannot_be_is_refused(
    small_scope: Scope, tmp_path: Path, slide: str, number: int, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        load(hotel(small_scope), tmp_path, slide, number)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"method": "devices"}, "'load' belongs to method 'devices', and that method needs it"),
        ({"method": "prompt", "load_command": ["x"]}, "'load_command' belongs to method 'command'"),
        ({"method": "prompt", "absent_codes": [3]}, "'absent_codes' belongs to method 'command'"),
        (
            {"method": "prompt", "message": "Load {sample}."},
            r"\{sample\} is not a placeholder; the placeholders are",
        ),
        ({"method": "prompt", "message": "{slide.__class__}"}, "is not a placeholder"),
        ({"method": "prompt", "message": "{slide:d}"}, "the placeholders are"),
        ({"method": "prompt", "message": "{"}, "a brace of its own is written twice"),
        ({"method": "prompt", "handover_z_um": 1.0}, "'handover_z_um' needs 'handover_um'"),
    ],
)
def test_a_loader_that_cannot_be_is_refused(policy: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Loader.model_validate(policy)


def test_placeholders_are_filled_with_their_format() -> None:
    policy = Loader.model_validate(
        {"method": "devices", "load": [step("{{{number:03d}}} {slide}/{slot}")]}
    )
    ((key, filled),) = policy.steps("load", SlidePlace(slide="S1", slot="B", number=7))
    assert (key, filled.value, policy.needs_number) == ("loader.load[0]", "{007} S1/B", True)


def test_what_a_loader_lacks_is_told_before_anything_moves(
    make_scope: Callable[..., Scope], small_scope: Scope
) -> None:
    with pytest.raises(ConfigError, match="scope 'small' has no loader; describe it in"):
        check_loader(small_scope)
    away = with_loader(
        small_scope, method="command", load_command=["/no/robot"], handover_um=(0.0, 90000.0)
    )
    with pytest.raises(
        ConfigError, match=r"no program '/no/robot'.*loader\.handover_um: y = 90000 um is beyond"
    ):
        check_loader(away)
    with pytest.raises(
        ConfigError,
        match=r"loader\.load\[0\]\.device 'Slid Hotel' is not in the \.cfg; did you mean",
    ):
        check_loader(hotel(small_scope, step("slide 1", device="Slid Hotel")))
    with pytest.raises(
        ConfigError, match=r"loader\.load\[0\]\.value 'slide 99' is not in the \.cfg"
    ):
        check_loader(hotel(small_scope, step("slide 99")))
    with pytest.raises(
        ConfigError, match="an operator brings the slides, and there is none at a terminal"
    ):
        check_loader(with_loader(small_scope, method="prompt"))
    with pytest.raises(ConfigError, match=r"'loader\.slot': there is no slot 'Q'; the slots: A, B"):
        make_scope(("[loader]", '[loader]\nslot = "Q"\n#'))
    scope = hotel(
        small_scope, step("slide {number}", key="Lable"), step("7", device="LED", key="Sequence")
    )
    link = CoreLink(scope)
    try:
        problems = live_loader_problems(scope, link)
    finally:
        link.close()
    assert len(problems) == 2
    assert problems[0].startswith("loader.load[0]: 'Slide Hotel' has no property 'Lable'; it has")
    assert problems[1].startswith("loader.load[1]: LED-Sequence does not accept '7'")


def test_the_slot_is_that_of_the_loader(small_scope: Scope, tmp_path: Path) -> None:
    scope = hotel(small_scope, slot="B")
    assert (slot_for(scope, None), slot_for(scope, "B"), slot_for(small_scope, None)) == (
        "B",
        "B",
        "A",
    )
    with pytest.raises(
        ConfigError, match="its loader brings slides to slot 'B', and slot 'A' is asked for"
    ):
        slot_for(scope, "A")
    assert load_request(small_scope, tmp_path, "S1", None) is None
    with pytest.raises(ConfigError, match="--place 3: scope 'small' has no loader"):
        load_request(small_scope, tmp_path, "S1", 3)


def test_the_operator_sees_and_states_what_lies_on_the_stage(
    small_scope: Scope, tmp_path: Path
) -> None:
    text = small_scope.path.read_text(encoding="utf-8")
    text = text.replace(
        "[loader]", f'[loader]\nload_command = ["{sys.executable}", "-c", "exit(5)"]\n#', 1
    )
    small_scope.path.write_text(
        text.replace('method = "none"', 'method = "command"', 1), encoding="utf-8"
    )
    common = ["--scope", str(small_scope.path), "--data", str(tmp_path)]

    def call(*words: str) -> str:
        result = CliRunner().invoke(loader, [words[0], *common, *words[1:]], catch_exceptions=False)
        return result.output

    assert call("status").startswith("empty, since ")
    with pytest.raises(LoaderStateError):
        call("load", "--slide", "S1")
    status = json.loads(call("status", "--json"))
    assert (status["state"], status["place"]["slide"]) == ("loading", "S1")
    assert "ended with code 5" in status["reason"]
    assert "give either --slide ID or --empty" in call("state")
    call("state", "--slide", "S1")
    assert call("load", "--slide", "S1").endswith("slide S1 is in slot A\n")
    call("state", "--empty")
    assert call("status").startswith("empty")


def test_a_damaged_record_is_refused_with_advice(small_scope: Scope, tmp_path: Path) -> None:
    write_loader(small_scope, tmp_path, LoaderRecord(state="empty"))
    path = tmp_path / "loader" / "small.json"
    path.write_text(path.read_text(encoding="utf-8").replace("empty", "flying"), encoding="utf-8")
    with pytest.raises(Exception, match=r"'state'.*look at the stage and state what lies there"):
        load(robot(small_scope, ""), tmp_path, "S1")
    state_slide(small_scope, tmp_path, None)
    assert read_loader(small_scope, tmp_path).state == "empty"


def test_acquire_loads_reads_the_label_and_scans(small_scope: Scope, tmp_path: Path) -> None:
    shipped = Path(__file__).parents[3] / "hardware_configs"
    hotel_toml, demo_toml = (
        (shipped / name).read_text(encoding="utf-8") for name in ("demo-loader.toml", "demo.toml")
    )

    def tables(text: str) -> tuple[str, str, str]:
        """What stands before the loader, the loader with the label, and what stands behind them."""
        begin, end = text.index("[loader] "), text.index("[staining] ")
        return text[text.index("virtual = ") : begin], text[begin:end], text[end:]

    assert tables(hotel_toml)[::2] == tables(demo_toml)[::2], (
        "demo-loader differs from demo in more than these tables"
    )
    small = small_scope.path.read_text(encoding="utf-8")
    small_scope.path.write_text(
        small.replace(tables(small)[1], tables(hotel_toml)[1]), encoding="utf-8"
    )
    words = [
        "--scope",
        str(small_scope.path),
        "--data",
        str(tmp_path / "data"),
        "--fields",
        "1",
        "--json",
    ]
    result = CliRunner().invoke(
        acquire, [*words, "--slide", "S1", "--place", "3"], catch_exceptions=False
    )
    assert json.loads(result.stdout)["fields_taken"] == 1
    record = read_loader(load_scope(small_scope.path), tmp_path / "data")
    assert record.place == SlidePlace(slide="S1", slot="A", number=3)
    label = Sample.open(tmp_path / "data", "S1").record().label
    assert label is not None
    assert label.code == "S1"

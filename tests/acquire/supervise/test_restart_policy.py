"""What follows the death of the process that drives the devices."""

from __future__ import annotations

import pytest

from wbcpipe.acquire.config.policies import Reliability
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.supervise.restart_policy import RestartDecision, RestartPolicy, describe_death
from wbcpipe.errors import DeviceCrashError, DeviceTimeoutError
from wbcpipe.system.child_process import ChildLostError


def test_deaths_are_counted_by_field_and_in_a_row() -> None:
    policy = RestartPolicy(Reliability(max_crashes_per_field=2, max_consecutive_restarts=3))
    policy.start_field(7)
    assert policy.died() == RestartDecision(restart=True, field=7, give_up=False, deaths=1)
    policy.start_field(7)
    assert policy.died() == RestartDecision(restart=True, field=7, give_up=True, deaths=2)
    assert policy.died() == RestartDecision(
        restart=True, field=None, give_up=False, deaths=0
    )  # while focusing
    policy.end_field(7, taken=False)
    assert not policy.died().restart
    policy = RestartPolicy(Reliability(max_consecutive_restarts=1))
    for index in range(5):
        policy.start_field(index)
        assert policy.died().restart
        policy.start_field(index)
        policy.end_field(index, taken=True)
    policy.start_field(5)
    policy.idle()
    assert policy.died().field is None


def test_a_death_is_described_for_the_log_and_for_the_operator() -> None:
    scope = load_scope("demo")
    crash = describe_death(ChildLostError("died (SIGSEGV)", -11), "SIGSEGV", scope, 60.0)
    assert (crash.text, type(crash.error)) == (
        "a device driver crashed (SIGSEGV)",
        DeviceCrashError,
    )
    silence = describe_death(ChildLostError("gave no sign of life", None), "SIGKILL", scope, 60.0)
    assert (silence.text, type(silence.error)) == ("no sign of life for 60 s", DeviceTimeoutError)
    with pytest.raises(DeviceCrashError, match="could not start"):
        describe_death(ChildLostError("died (exit code 1)", 1), "exit code 1", scope, 60.0)

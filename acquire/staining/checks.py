"""Check that the slide can be stained as the scope file says, before the first pass.

It cannot be repeated.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from wbcpipe.acquire.config.cfg_reader import read_config
from wbcpipe.acquire.config.micromanager_cfg import staining_problems
from wbcpipe.acquire.procedures.checks import program_problem
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope

__all__ = ["check_staining", "staining_faults"]


def staining_faults(scope: Scope) -> list[str]:
    """Return what makes a staining impossible, as far as this can be checked without the
    microscope.
    """
    faults = (
        staining_problems(scope, read_config(scope.config_path)) if scope.staining.steps else []
    )
    return [*faults, *filter(None, [program_problem("staining.command", scope.staining.command)])]


def check_staining(scope: Scope, *, operator_answers: bool = False) -> None:
    """Refuse a staining that cannot work, as far as this can be checked without the microscope.

    Args:
        scope: the microscope.
        operator_answers: an operator can be asked elsewhere than at this process's terminal.

    Raises:
        ConfigError: a step names what the .cfg does not have, the program is not there, or an
            operator must stain the slide and there is none at a terminal.
    """
    if problems := staining_faults(scope):
        raise ConfigError(f"{scope.path}: {'; '.join(problems)}.")
    if scope.staining.method == "prompt" and not (operator_answers or sys.stdin.isatty()):
        raise ConfigError(
            f"scope {scope.name!r}: the slide is stained by hand, and there is no operator at a "
            f"terminal. Run --pass brightfield now and --pass fluorescence after the stain, or "
            "describe a pump or a program in [staining]."
        )

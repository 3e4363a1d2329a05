"""Names of the devices and engines that run a network; torch is not imported here."""

from __future__ import annotations

from typing import Literal

__all__ = ["Device", "EngineName"]

Device = Literal["auto", "cpu", "cuda"]
EngineName = Literal["auto", "torch", "openvino"]

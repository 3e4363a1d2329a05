"""Bring slides to the stage and take them away: by an operator, by devices, or by a program."""

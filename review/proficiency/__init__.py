"""Tests of people and of the machine.

Cells missed on a slide, competence of readers, and their trend over days.
"""

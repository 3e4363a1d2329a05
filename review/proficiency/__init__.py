"""Tests of people and of the machine: cells missed on a slide, competence of readers, and their trend over days."""

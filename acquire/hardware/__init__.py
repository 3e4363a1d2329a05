"""Micro-Manager devices behind role protocols."""

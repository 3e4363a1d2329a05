"""Signing a differential.

The checks before it, and the signature, its withdrawal and its amendment.
"""

"""Signing a differential: the checks before it, and the signature, its withdrawal and its amendment."""

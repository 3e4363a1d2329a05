"""Deliver messages: an outbox that loses nothing, drop folders and MLLP."""

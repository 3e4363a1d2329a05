"""Alerts of a batch, by mail, chat, push message or a command of the laboratory."""

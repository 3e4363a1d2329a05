"""Two readers and more.

Blind readings, their agreement, adjudication, and the reference differential.
"""

"""What a laboratory decides.

Its file, codes, reference intervals, critical values, reflex rules and languages.
"""

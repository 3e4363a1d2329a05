"""What a laboratory decides: its file, codes, reference intervals, critical values, reflex rules and languages."""

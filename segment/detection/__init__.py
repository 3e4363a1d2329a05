"""Find nucleated cells and outline nucleus and cytoplasm."""

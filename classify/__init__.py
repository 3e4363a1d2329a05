"""Stage 3 of 4. In: ``cells.zarr`` with crops. Out: the same store with probabilities per head, calls and confidence.

The network is MM-MIMO trained with knowledge distillation: one backbone that reads all modalities and answers once per
modality. ``train`` makes a bundle from labelled cells, ``predict`` applies one.
"""

__all__ = ["classify_sample", "load_bundle"]


def __getattr__(name: str) -> object:
    # Imported on first use: torch must not load for `wbcpipe --help`.
    if name == "classify_sample":
        from wbcpipe.classify.stage import classify_sample

        return classify_sample
    if name == "load_bundle":
        from wbcpipe.classify.models.bundle import load_bundle

        return load_bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Stage 3 of 4. In: ``cells.zarr`` with crops.

Out: the same store with probabilities per head, calls and confidence.

The network is MM-MIMO trained with knowledge distillation: one backbone that reads all modalities
and answers once per modality. ``train`` makes a bundle from labelled cells, ``classify`` applies
one.
"""

__all__: list[str] = []

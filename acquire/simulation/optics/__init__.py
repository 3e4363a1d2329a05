"""The light path and the camera of the virtual scope."""

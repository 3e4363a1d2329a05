"""Have devices or a program handle the slide, by the steps that a scope file gives."""

"""Find a slide again that was taken off the stage and put back."""

"""The virtual specimen: cells, red cells, platelets and debris with their ground truth."""

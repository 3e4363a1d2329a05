"""The scope file and the Micro-Manager configuration that it names."""

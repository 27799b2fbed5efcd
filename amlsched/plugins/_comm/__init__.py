"""The implementation of `Comm`."""

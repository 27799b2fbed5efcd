"""The implementation of `Limits`."""

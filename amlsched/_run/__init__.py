"""The implementation of one run of a scheduler."""

"""The implementation of executors on batch systems."""

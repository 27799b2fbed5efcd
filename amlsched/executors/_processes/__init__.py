"""The implementation of the process pool behind `with_processes`."""

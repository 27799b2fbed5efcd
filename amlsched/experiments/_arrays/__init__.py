"""Experiments as arrays of jobs of a batch system."""

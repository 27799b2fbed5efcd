"""Calls on a dask cluster."""

"""The implementation of executors on dask clusters."""

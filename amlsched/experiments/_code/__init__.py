"""The copy of the code that a job runs from, and the version that a record names."""

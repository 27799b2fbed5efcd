"""Workers in the jobs of a batch system."""

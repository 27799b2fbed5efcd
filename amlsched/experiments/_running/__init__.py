"""Running repetitions, in the driver and in workers."""

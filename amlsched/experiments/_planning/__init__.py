"""What there is to do, and whether it can be done."""

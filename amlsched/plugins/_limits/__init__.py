"""What `Limits` is made of."""

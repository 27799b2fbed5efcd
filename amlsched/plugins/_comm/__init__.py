"""What `Comm` is made of."""

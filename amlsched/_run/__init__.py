"""One run of a scheduler: what it is made of."""

"""What `tests.samples` is made of, one module for each family of instructions."""

"""Modules written in the kernel language: Python to read, checked by our own front end."""

"""Quantised language models: checkpoints, families, quantisation and generation."""

"""Quantising models: rounding with searched scales, and the job that makes a folder of a model."""

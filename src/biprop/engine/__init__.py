"""Runs tickets without PyTorch."""

"""Accuracy of checkpoints and tickets on their data, as counts of images."""

"""Accuracy of whatever a file holds, as counts of images."""

"""Accuracy and calibration under common corruptions."""

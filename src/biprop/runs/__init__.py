"""Run folders: what a search writes down, and what is read of it later. Without torch."""

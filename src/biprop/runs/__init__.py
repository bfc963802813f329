"""Run folders: what a search writes there, and what is read later. Nothing here needs torch at
import.
"""

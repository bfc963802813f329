"""Pages and plots of results: runs, sweeps, tickets and decks. Nothing here needs torch at
import.
"""

"""Pages that run a ticket in a browser."""

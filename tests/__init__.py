"""The gateway's tests: through the HTTP door wherever a caller could notice."""

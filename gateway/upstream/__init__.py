"""Everything that knows the Omnia REST API: its shapes, errors, quota and calls."""

"""History: what was known of an instrument at any time of the archive."""

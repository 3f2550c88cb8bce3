"""Finding parts by URL scheme."""

"""mqcore: compose a message broker out of parts, and prove what its acknowledgement means."""

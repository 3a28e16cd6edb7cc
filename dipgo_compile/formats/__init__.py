"""plan.json and a bundle's files: reading what may be hostile, writing what every language reads alike."""

"""Several adapters made into one, and one adapter into a smaller one: one file per method."""

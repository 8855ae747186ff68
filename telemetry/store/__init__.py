"""Writing and keeping raw rows. Raw SQL lives here, in rollup.stats and in migrations/sql."""

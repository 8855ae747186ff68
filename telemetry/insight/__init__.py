"""What the console knows, asked of cells only: cost depends on hours, never on rows."""

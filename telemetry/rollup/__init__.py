"""Rollups: declared stats, folded batch by batch, exact whatever comes in whatever order."""

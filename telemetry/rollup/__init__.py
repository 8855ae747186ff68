"""Rollups: declared stats, filled hour by hour, exact under late, duplicate and merged rows."""

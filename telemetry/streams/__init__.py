"""Audit log and alerts as they happen: what needs a person, and where it is sent."""

"""The tests, and what they run on: services, plugin and suite."""

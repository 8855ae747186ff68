"""The agents' API under /api/v1/: thin views over fleet.enroll and fleet.policy."""

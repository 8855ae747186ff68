"""What an operator does to a whole console: doctor, backup, restore, upgrade."""

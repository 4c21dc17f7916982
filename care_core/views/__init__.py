"""What a network sees: each step's batch, and what `care_core.augment` makes of it."""

"""What a network sees: the batches of each step, and how they are augmented, beside `care_core.augment`."""

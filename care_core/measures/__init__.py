"""What a trained encoder is worth, and what shape its embedding has: one measure a file.

`probing` runs those that an evaluation asks for.
"""

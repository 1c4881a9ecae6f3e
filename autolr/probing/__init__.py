"""Stage "probe", between the data and the loss differentials: torch in, losses out; no frames, no pictures."""

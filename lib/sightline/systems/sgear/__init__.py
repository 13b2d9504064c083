"""S-GEAR: the action that comes next, anticipated from what was seen before it."""

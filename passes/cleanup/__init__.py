"""Clean-ups: xDSL's own passes under our driver."""

"""Into and out of autopar's spelling of shardings, and the clean-up on the way in."""

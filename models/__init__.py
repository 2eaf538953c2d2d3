"""Reference models, written as users write them; they import nothing of autopar but its public face."""

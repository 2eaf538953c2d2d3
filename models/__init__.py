"""Reference models, written as users write them: they import only autopar's public face."""

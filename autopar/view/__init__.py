"""Plans as a page: `autopar view`, `Plan.view`."""

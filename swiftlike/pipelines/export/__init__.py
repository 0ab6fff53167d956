"""What `swiftlike export` writes: merged, quantised or converted weights, here or on a hub."""

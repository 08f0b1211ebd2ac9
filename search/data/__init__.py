"""What a study does with its rows before any training: parts, kinds held out, leaks between sources. No torch."""

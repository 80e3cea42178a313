"""Small state machines between a caller and a dependency that may fail. Events go to callbacks: no metrics, no log."""

"""One file per family of routes: parse, call one service, encode."""

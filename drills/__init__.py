"""Rehearsals of outages: real servers, real load, recorded faults, and lines that must hold."""

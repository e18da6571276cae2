"""Compiled loops, the memory and threads they run on, and the hash of a key."""

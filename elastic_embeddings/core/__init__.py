"""Compiled loops, the memory and threads they use, and the hash of a key."""

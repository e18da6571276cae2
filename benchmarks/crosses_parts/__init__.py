"""The parts of `benchmarks/crosses.py`: the arms, their inputs, a run, the choice of fields, the figures."""

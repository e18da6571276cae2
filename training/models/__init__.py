"""The models on top of the elastic table: Wide & Deep, the logistic-regression baseline, and their shared parts."""

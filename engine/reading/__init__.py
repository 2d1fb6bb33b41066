"""Reading a map: what a trained map and a mapping say, on arrays.

Neurons are numbered by `skysom.engine.lattice`; -1 is no neuron. Distances are NaN where an image was not mapped.
"""

"""What inference costs on this machine, and what it could cost: prefill, decode, single kernels, start-up and loading.

Every benchmark here prints and records the same things: the floor, which is the larger of FLOPs over the measured
matrix-multiply peak and bytes over the measured read bandwidth; what was achieved; and what the peer took in the same
run. `record.SpeedRecord` is the common form.
"""

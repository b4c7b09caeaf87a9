"""A training job of any size, built and moved by one step on one CPU.

Nothing here is a formula of what training would cost. The job is built as a real run builds it, on tensors without
values (PyTorch's meta device) and in a process group in which nobody else is, and takes one step: forward and backward
passes, reduction, update. What is reported is what was seen: tensors alive, messages handed to the backend, products.
"""

"""A training job built and stepped at any size on one CPU: meta tensors, a process group that moves nothing."""

"""Controllers beside the gradient: the expert bias, and the guard against bad steps. Neither waits for the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from homegrown.config import ControllerConfig, GuardConfig, ModelConfig
from homegrown.model.router import Router
from homegrown.train.losses import expected_experts


class BiasController:
    """Holds the mean number of real experts per token at its target (arXiv 2509.01322 section 2).

    Once per global batch, for every routed expert i of N: b_i += μ (K_e / (K N) − T_i / (K T)), where T_i tokens of T
    chose expert i. Zero experts' bias stays 0. The bias lives in the model, so checkpoints and exports carry it.

    Args:
        routers: the routers that live here, by layer.
        model, config: the run's.
    """

    def __init__(self, routers: Mapping[int, Router], model: ModelConfig, config: ControllerConfig) -> None:
        self.config, self.model_config = config, model
        self.target = expected_experts(config, model)
        self._biases = {layer: router.e_score_correction_bias for layer, router in routers.items()}

    def update(self, counts: Tensor, tokens: int, progress: float, keep: Tensor) -> None:
        """Move the biases after a step.

        Args:
            counts: int64 [layers, E + Z] slots over the whole global batch.
            tokens: T, tokens in the global batch.
            progress: 0 at the first step, 1 at the last.
            keep: 0 or 1; a skipped step moves nothing.
        """
        routed, topk = self.model_config.n_routed_experts, self.model_config.moe_topk
        mu = self.config.mu + (self.config.mu_final - self.config.mu) * progress
        for layer, bias in self._biases.items():
            error = self.target / (topk * routed) - counts[layer, :routed].to(torch.float32) / (topk * tokens)
            bias[:routed] += mu * keep * error


class StepGuard:
    """Decides on the device whether a step is kept.

    A step is dropped when its loss or gradient norm is not finite, or lies more than `sigma` standard deviations above
    the mean of the last `window` finite steps (after `min_history` of them). The answer is a tensor factor, 0 or 1.
    An outlier joins the range at the limit it exceeded: one hardly moves it, but a lasting shift is accepted in time.
    """

    def __init__(self, config: GuardConfig, device: torch.device) -> None:
        self.config = config
        self._history = torch.zeros(2, config.window, dtype=torch.float64, device=device)
        self._seen = torch.zeros((), dtype=torch.int64, device=device)

    def judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """1.0 to keep the step, 0.0 to drop it; finite values join the recent range."""
        config = self.config
        new = torch.stack((loss.detach(), norm.detach())).to(torch.float64)
        finite = keep = torch.isfinite(new).all()
        if config.sigma > 0:
            filled = torch.arange(config.window, device=new.device) < self._seen
            count = filled.sum().clamp(min=1)
            mean = (self._history * filled).sum(1) / count
            deviation = (((self._history - mean[:, None]) * filled).square().sum(1) / count).sqrt()
            # Floors keep a calm history from rejecting ordinary noise: gradient norms jump severalfold in good health,
            # and clipping deals with that.
            floor = mean.abs() * mean.new_tensor([0.02, 0.5])
            limit = mean + config.sigma * torch.maximum(deviation, floor)
            early = self._seen < config.min_history
            keep = finite & ((new <= limit).all() | early)
            new = torch.where(early, new, torch.minimum(new, limit))
        slot = self._seen % config.window
        here = torch.arange(config.window, device=new.device) == slot
        self._history = torch.where(here & finite, new.nan_to_num()[:, None], self._history)
        self._seen += finite
        return keep.to(torch.float32)

    def forget(self) -> None:
        """Begin a new range: what is trained has changed, and with it what is ordinary."""
        self._seen.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """The recent range."""
        return {"history": self._history, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue with a saved recent range."""
        self._history.copy_(state["history"])
        self._seen.copy_(state["seen"])

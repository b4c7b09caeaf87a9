"""What watches a run: metrics, checkpoints, held-out scores, samples, TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from homegrown.config import ConfigError
from homegrown.generate import SamplingConfig, complete
from homegrown.train.checkpoint import MEMORY, CheckpointError, Report
from homegrown.train.evaluate import Score
from homegrown.train.run import Run
from homegrown.train.trainer import Callback, Measured, Outcome


class MetricsLog(Callback):
    """Writes metrics.jsonl and, for every step, the exact loss and gradient norm into the ledger."""

    def on_step(self, run: Run, measured: Measured) -> None:
        """One line every `log_every` steps; skipped steps always, and as an event."""
        values = measured.values
        loss, norm = float(values["loss"]).hex(), float(values["grad_norm"]).hex()
        run.ledger.append("step", step=run.step, loss=loss, grad_norm=norm, skipped=measured.skipped)
        if measured.skipped:
            detail = {"loss": values["loss"], "grad_norm": values["grad_norm"]}
            run.metrics.write("event", step=run.step, event="skipped_step", detail=detail)
        if run.step % run.config.log_every == 0 or measured.skipped or run.step == run.config.steps:
            run.metrics.write("train", step=run.step, **values)


class Checkpoints(Callback):
    """Saves every so many steps or minutes, and at the end; says what became of it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._saved_step = -1
        self._clock = 0.0
        self._saved_time: float | None = None

    def on_start(self, run: Run) -> None:
        """What was just resumed from need not be saved again."""
        self._saved_step, self._saved_time = run.step, None

    def on_step(self, run: Run, measured: Measured) -> None:
        """Save when either period is over; hear of the save before."""
        config = run.config.checkpoint
        # All processes go by the first one's clock, and so save at the same steps.
        self._clock = measured.clock
        if self._saved_time is None:
            self._saved_time = self._clock
        by_steps = config.every_steps and run.step % config.every_steps == 0
        by_time = config.every_minutes and self._clock - self._saved_time >= 60 * config.every_minutes
        self._tell(run, run.settle())
        by_memory = config.memory_every_steps and run.step % config.memory_every_steps == 0
        if by_steps or by_time:
            self._save(run)
        elif by_memory:
            run.save(MEMORY)

    def on_end(self, run: Run, outcome: Outcome) -> None:
        """Save what is not saved yet, and wait for it."""
        if outcome.signal is not None:
            run.ledger.append("signal", step=run.step, number=outcome.signal)
            run.metrics.write("event", step=run.step, event="signal", detail={"number": outcome.signal})
        if self._saved_step != run.step:
            self._save(run)
        reports = run.settle(wait=True)
        self._tell(run, reports)
        if reports and reports[-1].error is not None:
            raise CheckpointError(f"the last checkpoint of {run.path} could not be written: {reports[-1].error}")

    def _save(self, run: Run) -> None:
        run.save()
        self._saved_step, self._saved_time = run.step, self._clock

    def _tell(self, run: Run, reports: list[Report]) -> None:
        notes = [
            f"the checkpoint of step {report.step} could not be written, the ones before are as they were: "
            f"{report.error}"
            for report in reports
            if report.error is not None
        ]
        for note in [*notes, *run.checkpoints.notes]:
            self._console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
        run.checkpoints.notes.clear()


class HeldOut(Callback):
    """Scores part of the held-out split while training."""

    def on_step(self, run: Run, measured: Measured) -> None:
        """Every `eval.every_steps`; the end of a run is scored whole elsewhere."""
        config = run.config.eval
        if not config.every_steps or run.step % config.every_steps or run.step == run.config.steps:
            return
        if not run.dataset.held.documents:
            return
        score = run.score(max_tokens=config.max_tokens)
        record_score(run, score, final=False)


def record_score(run: Run, score: Score, final: bool) -> None:
    """Write a held-out score into metrics and ledger."""
    figures: dict[str, Any] = {
        "split": "held",
        "bpb": score.bits_per_byte,
        "nats_per_token": score.nats_per_token,
        "tokens": score.tokens,
        "bytes": score.text_bytes,
        "documents": score.documents,
        "final": final,
    }
    run.metrics.write("eval", step=run.step, **figures)
    run.ledger.append("eval", step=run.step, **figures)


class Samples(Callback):
    """Lets the model write while it learns, where one process holds all of it."""

    def on_step(self, run: Run, measured: Measured) -> None:
        """Every `eval.sample_every_steps`, and after the last step."""
        every = run.config.eval.sample_every_steps
        if (every and run.step % every == 0) or run.step == run.config.steps:
            self.write(run)

    def on_start(self, run: Run) -> None:
        """A fresh model's babble, for comparison."""
        if run.step == 0:
            self.write(run)

    def write(self, run: Run) -> None:
        """One sample per prompt; seeds depend on the step alone, so a resumed run writes the same."""
        if run.bench.world.size > 1:
            return
        config = run.config.eval
        for number, prompt in enumerate(config.sample_prompts):
            sampling = SamplingConfig(
                temperature=config.sample_temperature, max_tokens=config.sample_tokens, seed=run.step + number
            )
            text = complete(run.model, run.tokenizer, prompt, sampling)
            run.metrics.write("sample", step=run.step, prompt=prompt, text=text)


class TensorBoard(Callback):
    """Writes scalar metrics as TensorBoard events under RUN/tensorboard."""

    def __init__(self, directory: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError('tensorboard = true needs the extra: pip install "homegrown-lm[tensorboard]"') from None
        self._writer = SummaryWriter(str(directory))

    def on_step(self, run: Run, measured: Measured) -> None:
        """Every scalar of the step's line."""
        for name, value in measured.values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"train/{name}", value, run.step)

    def on_end(self, run: Run, outcome: Outcome) -> None:
        """Flush to disk."""
        self._writer.close()

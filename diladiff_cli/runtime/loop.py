"""The only training loop. A stage hands it a network, data and an objective."""

import math
import shutil
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diladiff_cli.config import StageConfig
from diladiff_cli.errors import UserError
from diladiff_cli.notes import say
from diladiff_cli.runtime.announcements import announce, in_words, time_is_up
from diladiff_cli.runtime.artifacts import save_artifact
from diladiff_cli.runtime.clock import Clock, TokenRate
from diladiff_cli.runtime.folders import METRICS_FILE, recover
from diladiff_cli.runtime.gradients import (
    clip_gradients,
    diagnose_gradients,
    diverged,
    gradient_norm,
    weights_are_finite,
)
from diladiff_cli.runtime.metrics_log import MetricsLog
from diladiff_cli.runtime.optim import AveragedModel, build_optimizers, set_learning_rates
from diladiff_cli.runtime.prefetch import Prefetch
from diladiff_cli.runtime.progress import Bar
from diladiff_cli.runtime.randomness import BatchRng
from diladiff_cli.runtime.resume import changed_settings, check_agreement, check_resume, finished_run, made_from
from diladiff_cli.runtime.run import Run
from diladiff_cli.runtime.session import TIME_IS_UP, CutShort, Interrupted, Session, StopRequest, peak_flops
from diladiff_cli.runtime.sharding import shard
from diladiff_cli.runtime.state import load_state, save_state, whole_state

BAD_STEPS = 5  # steps in a row with a loss or gradient that is not finite before a run gives up


def train(run: Run, session: Session, config: StageConfig, out: Path, resume: bool | None) -> dict[str, Any]:
    """Train a stage and write its artifact.

    Returns:
        The last validation's metrics, with step and seconds.

    Raises:
        Interrupted: After saving (not in a row of bad steps), when a signal to stop came.
        UserError: A resume that does not fit, or numbers gone bad.
    """
    with closing(session):
        return _train(run, session, config, out, resume)


def _train(run: Run, session: Session, config: StageConfig, out: Path, resume: bool | None) -> dict[str, Any]:
    stored = check_resume(out, config, run.artifact, resume)
    check_agreement(out, config, run.artifact, stored)
    session.accelerator.wait_for_everyone()  # all have read the folder before it changes
    if session.is_main:
        recover(out)  # of a finished run as well: its last save may have been cut off while it cleaned up
    if stored is not None and (metrics := finished_run(out, stored, config)) is not None:
        return metrics
    if stored is not None and (changed := changed_settings(stored, config)):
        say(f"going on with other settings: {', '.join(changed.values())}")
        say(f"what was made with {out} and lies elsewhere than beside it will refuse the new one")
    if stored is None:
        run.prepare()
    loop = _Loop(run, session, config, out, stored)
    with StopRequest() as stop, closing(loop.batches):
        return loop.run_all(stop)


class _Loop:
    def __init__(
        self, run: Run, session: Session, config: StageConfig, out: Path, stored: Mapping[str, Any] | None
    ) -> None:
        self.run, self.session, self.config, self.out = run, session, config, out
        self.bare = run.model.to(session.device)
        self.parameters = sum(p.numel() for p in self.bare.parameters() if p.requires_grad)
        self.average = AveragedModel(self.bare, config.ema_decay)
        if session.sharded:
            shard(self.bare, session.device)
        self.optimizers = build_optimizers(self.bare, config, run.lr_override)
        self.step = int(stored["step"]) if stored else 0
        self.shift = stored["rows"] - self.step * config.batch_size if stored else 0  # of batches of another size
        self.bad_steps = 0  # in a row
        self.skipped_steps = int(stored["skipped_steps"]) if stored else 0  # in all
        self.saved_step: int | None = self.step if stored else None
        self.validated_step = int(stored["validated_step"]) if stored else -1 if run.begins_trained else 0
        self.prepared_step = -1  # of the averaged network as it is validated and written
        self.clock = Clock(float(stored["seconds"]) if stored else 0.0)
        self.validation: dict[str, Any] = dict(stored["validation"]) if stored else {}
        if stored:
            load_state(out / "state", self.bare, self.average.model, self.optimizers)
        if config.compile:
            run.compile_body(self.bare)
        if session.sharded:
            self.average.follow(self.bare)
            self.model: nn.Module = self.bare
        else:
            self.model = session.accelerator.prepare(self.bare)
        self.wrapped_optimizers = [session.accelerator.prepare(optimizer) for optimizer in self.optimizers]
        self.batches = Prefetch(lambda n: session.fetch(run, self.shift + n * config.batch_size), config.max_steps)
        self.metrics = MetricsLog(out, self.step, self.validated_step) if session.is_main else None
        session.start_tracker(self.step)

    def run_all(self, stop: StopRequest) -> dict[str, Any]:
        announce(self.run, self.session, self.config, self.step, self.parameters)
        with Bar(str(self.run.artifact["stage"]), self.config.max_steps, self.step, self.session.is_main) as bar:
            why = self._train(stop, bar)
            if why == 0 and self.validated_step != self.step:
                why = self._validate(stop, bar)
        if why == 0:
            if self.bad_steps and not all(math.isfinite(v) for v in self._figures().values()):
                raise self._diverged(self.step, "the last steps and the validation gave numbers that are not finite")
            self.bad_steps = 0
        self._save()
        if why > TIME_IS_UP:
            raise Interrupted(why - TIME_IS_UP, self.saved_step)
        if why == TIME_IS_UP:
            if self.saved_step is None:
                raise self._diverged(self.step, "the time was up, and no step gave finite numbers lately")
            say(time_is_up(self.config.max_minutes, self.step, self.saved_step))
        when = {"step": self.saved_step, "seconds": self.clock.seconds(), "validated_step": self.validated_step}
        return when | self.validation

    def _train(self, stop: StopRequest, bar: Bar) -> int:
        """Take all steps that are left; 0, or why not all were taken."""
        first, last, why = self.step + 1, self.config.max_steps, 0
        if self.step < last and self._owes_validation():  # or what a run begins with
            why = self._validate(stop, bar)
        rate = TokenRate(self.clock)
        while why == 0 and self.step < last:
            values, grad_norm = self._step()
            rate.add(self.config.batch_size * self.run.tokens_per_row)
            logged, text = self.step == last or self._due(self.config.log_every), None
            if logged or self.step == first:  # which is for the user alone
                line = self._training_line(values, grad_norm, rate.per_second())
                text = in_words(line)
                if logged:
                    self._write(line)
                    rate.restart()
            bar.update(1, text)
            if self.step == last:
                break
            if self._owes_validation():
                why = self._validate(stop, bar)
                rate.restart()
            why = why or self._why_stop(stop)
            if why == 0 and self._due(self.config.save_every):
                self._save()
                rate.restart()
        return why

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _owes_validation(self) -> bool:
        return (self._due(self.config.eval_every) or self.step == 0) and self.validated_step != self.step

    def _why_stop(self, stop: StopRequest) -> int:
        """0 to go on, :data:`TIME_IS_UP`, or :attr:`StopRequest.why`."""
        is_late = 0 < self.config.max_minutes * 60 < self.clock.session_seconds()
        return self.session.agree(stop.why or (TIME_IS_UP if is_late else 0))

    def _step(self) -> tuple[dict[str, Tensor], float]:
        set_learning_rates(self.optimizers, self.config, self.step)
        totals: dict[str, Tensor] = {}
        self.model.train()
        if self.session.sharded:
            self.average.model.cpu()  # it was whole on the device for validation or saving
        for places, rows in zip(self.session.micro_batches(), self.batches(self.step), strict=True):
            rng = BatchRng(self.config.seed, self.step, places, self.config.batch_size, self.session.device)
            batch = rows.to(self.session.device, non_blocking=True)
            with self.session.accelerator.accumulate(self.model):
                with self.session.accelerator.autocast():
                    loss, metrics = self.run.loss_fn(self.model, batch, rng)
                self.session.accelerator.backward(loss)
            for name, value in ({"loss": loss} | metrics).items():
                totals[name] = totals.get(name, torch.zeros((), device=value.device)) + value.detach().float()
        share = 1.0 / self.config.grad_accum
        means = {name: value * share for name, value in totals.items()}
        return means, self._update(float(means["loss"]))

    def _update(self, loss: float) -> float:
        norm = gradient_norm(self.bare)
        grad_norm = float(norm)
        if self.session.agree(int(not (math.isfinite(loss) and math.isfinite(grad_norm)))):
            self._skip(loss)
        else:
            self.bad_steps = 0
            clip_gradients(self.bare, norm, self.config.grad_clip)
            for optimizer in self.wrapped_optimizers:
                optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.run.after_step(self.bare)
        self.average.update(self.bare, self.step)
        self.step += 1
        return grad_norm

    def _skip(self, loss: float) -> None:
        """Count a step whose numbers went bad; give up where there were too many in a row."""
        self.bad_steps += 1
        self.skipped_steps += 1
        if self.bad_steps >= BAD_STEPS:
            loss = self.session.mean_over_processes({"loss": torch.tensor(loss)})["loss"]  # that of all
            what = f"loss or gradient not finite {BAD_STEPS} steps in a row (loss {loss:.4g}"
            raise self._diverged(self.step + 1, f"{what}, {diagnose_gradients(self.bare)})")

    def _diverged(self, step: int, what: str) -> UserError:
        rate = self.optimizers[0].param_groups[0]["lr"]
        return diverged(str(self.run.artifact["stage"]), step, rate, what, self.saved_step)

    def _training_line(self, values: Mapping[str, Tensor], grad_norm: float, rate: float) -> dict[str, Any]:
        line: dict[str, Any] = {"step": self.step, "split": "train"}
        line |= self.session.mean_over_processes(dict(values))
        line |= {"grad_norm": grad_norm, "learning_rate": self.optimizers[0].param_groups[0]["lr"]}
        line |= {"tokens_per_second": rate, "seconds": self.clock.seconds()}
        if self.skipped_steps:
            line["skipped_steps"] = self.skipped_steps
        peak = peak_flops(self.session.device)
        if peak is not None:
            rows_per_second = rate / self.run.tokens_per_row
            line["mfu"] = self.run.flops_per_row * rows_per_second / (peak * self.session.processes)
        return line

    def _validate(self, stop: StopRequest, bar: Bar) -> int:
        """0, or :attr:`StopRequest.why` it was cut short in one of the processes: the run then owes it."""
        self._prepare_average()
        validation, cut = self.validation, 0
        try:
            with bar.doing("validating"), torch.no_grad(), self.session.accelerator.autocast(), stop.at_once():
                validation = self.run.validate(self.average.model)
        except CutShort:
            cut = stop.why
        if cut := self.session.agree(cut):
            return cut
        self.validation, self.validated_step = validation, self.step
        self._write({"step": self.step, "split": "valid"} | self.validation)
        say(f"  step {self.step}: " + ", ".join(f"{k} {v:.4g}" for k, v in self._figures().items()))
        return 0

    def _figures(self) -> dict[str, float]:
        return {k: v for k, v in self.validation.items() if isinstance(v, float)}

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.write(line)
        if self.config.log_with != "none":
            numbers = {f"{line['split']}/{k}": v for k, v in line.items() if isinstance(v, float)}
            self.session.accelerator.log(numbers, step=self.step)

    def _prepare_average(self) -> None:
        if self.prepared_step == self.step:
            return
        self.average.gather(self.bare)
        with torch.no_grad(), self.session.accelerator.autocast():
            self.run.before_use(self.average.model)
        self.prepared_step = self.step

    def _save(self) -> None:
        if self.bad_steps:  # weights may be ruined and finite still
            say(f"step {self.step} is not saved: the numbers of the last {self.bad_steps} steps are not finite")
            return
        if self.session.agree(int(not weights_are_finite(self.bare))):
            raise self._diverged(self.step, "the weights are not finite any more")
        self._prepare_average()
        state = whole_state(self.bare, self.average.model, self.optimizers, keep=self.session.is_main)
        if self.session.is_main:
            progress = self._progress()
            save_artifact(
                self.out,
                partial(self._extra_files, state),
                state_dict=self.average.model.state_dict(),
                progress=progress,
                training=self.config.to_dict(),
                **self.run.artifact,
            )
            if self.metrics is not None:
                self.metrics.saved()
        self.saved_step = self.step
        self.session.accelerator.wait_for_everyone()

    def _extra_files(self, state: Mapping[str, Tensor], folder: Path) -> None:
        if self.metrics is not None:
            shutil.copyfile(self.metrics.path, folder / METRICS_FILE)
        made = {"training": self.config.to_dict(), "made_from": made_from(self.run.artifact)}
        counts = {"skipped_steps": self.skipped_steps, "rows": self.shift + self.step * self.config.batch_size}
        save_state(folder / "state", state, self._progress() | counts | made)

    def _progress(self) -> dict[str, Any]:
        when = {"step": self.step, "seconds": self.clock.seconds(), "validated_step": self.validated_step}
        return when | {"validation": self.validation}

//! Training a network, step by step, from its start or from a checkpoint.

use std::time::Instant;

use candle_core::Tensor;
use engine::Purpose;
use engine::kernels::optimizer::{self, Rule};
use shared::contract::{EpochMetrics, Metrics, Objective, Parameter, Trial};

use super::checkpoint::{self, Best, Position};
use super::evaluate::measure;
use super::model::{Model, rule};
use super::rows::{Decoded, Division, Rows};
use super::schedule::learning_rate;
use super::weights::{bad_file, write};
use super::{ComputeError, Ended, Flow, Step, Trained, TrainingJob, Watch};

/// Trains until the trial's end, or until `watch`, which is told of every step, says to pause.
///
/// Then `job.out` holds the parameters of the best epoch by the trial's objective (of equal ones the
/// earlier), under the names of [`shared::contract::Network::parameters`], in fp32; or a checkpoint
/// with which another call goes on to the same bits. A pause that is asked for at the very end is not
/// needed, and the trial finishes. Pictures that had to be decoded are left in `decoded` for the next trial.
///
/// # Errors
/// The job does not fit its dataset, a file is not what it should be, or the loss is not finite.
pub fn train(job: &TrainingJob<'_>, decoded: &mut Decoded, watch: &mut dyn Watch) -> Result<Ended, ComputeError> {
    let mut trainer = Trainer::new(job, decoded)?;
    if let Some(path) = job.resume {
        trainer.resume(path)?;
    }
    let flow = if trainer.is_done() { Flow::Go } else { trainer.run(watch)? };
    loop {
        let written = match flow {
            Flow::Pause => trainer.pause(job.out),
            Flow::Go => trainer.finish(job.out),
        };
        match written {
            // What was trained is kept until there is room for it.
            Err(error) if error.is_full_disk() && watch.disk_full(&error) => {}
            written => return written,
        }
    }
}

struct Trainer<'a> {
    trial: &'a Trial,
    rows: Rows<'a>,
    division: Division,
    model: Model,
    /// What computes, for the checkpoint.
    path: &'static str,
    rule: Rule,
    best: Vec<(String, Tensor)>,
    position: Position,
}

impl<'a> Trainer<'a> {
    fn new(job: &TrainingJob<'a>, decoded: &'a mut Decoded) -> Result<Self, ComputeError> {
        let (trial, dataset) = (job.trial, job.dataset);
        trial.check().map_err(|problem| ComputeError::InvalidJob(problem.to_string()))?;
        let split = dataset.train().map_err(|problem| ComputeError::InvalidJob(problem.to_string()))?;
        let rows = Rows::open(dataset, trial.data.image.as_ref(), &[split.rows], job.train, decoded)?;
        check(trial, rows.shape(), dataset.classes)?;
        let division = Division::draw(&trial.data, rows.len())?;
        let batch = division.train.len().max(division.validation.len()).min(trial.training.batch_size as usize);
        let mut model = Model::new(&trial.network, rows.shape(), batch, Purpose::Train, job.backend)?;
        model.initialise(trial.seed)?;
        let rule = rule(&trial.training);
        let path = job.backend.path();
        Ok(Self { trial, rows, division, model, path, rule, best: Vec::new(), position: Position::default() })
    }

    fn resume(&mut self, path: &std::path::Path) -> Result<(), ComputeError> {
        let parameters = self.model.parameters().iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
        let expected = [parameters, self.model.optimizer_shapes(self.rule)];
        let contents = checkpoint::load(path, self.trial, &expected)?;
        let position = contents.position;
        if position.epoch > self.trial.training.epochs
            || position.batch >= self.batches()
            || position.epochs.len() != position.epoch as usize
            || position.best.is_some() != (position.epoch > 0)
        {
            return Err(bad_file("the checkpoint", path, "its position is outside the trial"));
        }
        self.model.set(&contents.parameters)?;
        self.model.restore(self.rule, &contents.optimizer)?;
        self.best = contents.best.into_iter().collect();
        self.position = position;
        Ok(())
    }

    /// Batches of one epoch.
    fn batches(&self) -> u32 {
        let rows = u32::try_from(self.division.train.len()).unwrap_or(u32::MAX);
        rows.div_ceil(self.trial.training.batch_size)
    }

    fn stopped_early(&self) -> bool {
        self.trial.training.early_stop.as_ref().is_some_and(|stop| self.position.waited >= stop.patience)
    }

    fn is_done(&self) -> bool {
        self.position.epoch >= self.trial.training.epochs || self.stopped_early()
    }

    /// Share of the trial that is done.
    fn fraction(&self) -> f64 {
        if self.is_done() {
            return 1.0;
        }
        let epochs = f64::from(self.position.epoch) + f64::from(self.position.batch) / f64::from(self.batches());
        epochs / f64::from(self.trial.training.epochs)
    }

    fn run(&mut self, watch: &mut dyn Watch) -> Result<Flow, ComputeError> {
        watch.loaded();
        loop {
            let order = self.division.order(self.trial.seed, self.position.epoch);
            let began = Instant::now();
            let spent = self.position.spent_ms;
            loop {
                let rate = self.step(&order)?;
                let elapsed = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.position.spent_ms = spent.saturating_add(elapsed);
                let ended = self.position.batch == self.batches();
                let epoch = ended.then(|| self.end_epoch(rate, began, spent, watch)).transpose()?;
                let flow = watch.step(&Step { fraction: self.fraction(), epoch });
                if self.is_done() {
                    return Ok(Flow::Go);
                }
                if flow == Flow::Pause {
                    return Ok(Flow::Pause);
                }
                if epoch.is_some() {
                    break;
                }
            }
        }
    }

    /// One batch: loss, gradients, update. Returns the learning rate.
    fn step(&mut self, order: &[u32]) -> Result<f64, ComputeError> {
        let training = &self.trial.training;
        let Position { epoch, batch, .. } = self.position;
        let size = training.batch_size as usize;
        let rows = &order[batch as usize * size..];
        let batch_rows = self.rows.batch(&rows[..size.min(rows.len())])?;
        let step = u64::from(epoch) * u64::from(self.batches()) + u64::from(batch);
        let t = f64::from(epoch) + f64::from(batch) / f64::from(self.batches());
        let rate = learning_rate(&training.schedule, training.optimizer.learning_rate(), t, training.epochs);
        let step = optimizer::Step { rule: self.rule, rate, decay: training.weight_decay, number: step };
        let value = self.model.step(&batch_rows.inputs, &batch_rows.labels, self.trial.seed, &step)?;
        self.must_be_finite(value)?;
        self.position.loss_sum += value * batch_rows.labels.len() as f64;
        self.position.batch += 1;
        Ok(rate)
    }

    fn must_be_finite(&self, loss: f64) -> Result<(), ComputeError> {
        if loss.is_finite() { Ok(()) } else { Err(ComputeError::Diverged { loss, epoch: self.position.epoch + 1 }) }
    }

    /// Measures the epoch that has ended, keeps its parameters if it is the best, and moves to the next.
    fn end_epoch(
        &mut self,
        learning_rate: f64,
        began: Instant,
        spent: u64,
        watch: &mut dyn Watch,
    ) -> Result<EpochMetrics, ComputeError> {
        let training = &self.trial.training;
        let mut each = |_| {
            watch.alive();
            Flow::Go
        };
        let validation =
            measure(&mut self.model, &mut self.rows, &self.division.validation, training.batch_size, &mut each)?;
        let validation = validation.expect("nobody breaks it off");
        self.must_be_finite(validation.loss)?;
        let elapsed = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let metrics = EpochMetrics {
            epoch: self.position.epoch + 1,
            train_loss: self.position.loss_sum / self.division.train.len() as f64,
            validation_loss: validation.loss,
            validation_error: validation.error,
            learning_rate,
            duration_ms: spent.saturating_add(elapsed),
        };
        let objective = self.objective(&validation);
        if self.position.best.is_none_or(|best| objective < self.objective(&best.validation)) {
            self.best = self.model.copies()?;
            self.position.best = Some(Best { epoch: metrics.epoch, validation });
        }
        let position = &mut self.position;
        if let Some(stop) = &training.early_stop {
            if position.to_beat.is_none_or(|to_beat| objective < to_beat - stop.min_delta) {
                position.to_beat = Some(objective);
                position.waited = 0;
            } else {
                position.waited += 1;
            }
        }
        position.epochs.push(metrics);
        (position.epoch, position.batch) = (position.epoch + 1, 0);
        (position.loss_sum, position.spent_ms) = (0.0, 0);
        Ok(metrics)
    }

    fn objective(&self, metrics: &Metrics) -> f64 {
        match self.trial.training.objective {
            Objective::ValidationError => metrics.error,
            Objective::ValidationLoss => metrics.loss,
        }
    }

    fn pause(&mut self, out: &std::path::Path) -> Result<Ended, ComputeError> {
        let optimizer = self.model.optimizer_state(self.rule)?;
        let parts = [self.model.copies()?, self.best.clone(), optimizer];
        checkpoint::save(out, self.trial, self.path, &self.position, parts)?;
        Ok(Ended::Paused)
    }

    fn finish(&self, out: &std::path::Path) -> Result<Ended, ComputeError> {
        let stopped_early = self.stopped_early() && self.position.epoch < self.trial.training.epochs;
        let best = self.position.best.ok_or_else(|| ComputeError::InvalidJob("it has no epochs".into()))?;
        write(out, &self.best, None)?;
        Ok(Ended::Finished(Trained {
            epochs: self.position.epochs.clone(),
            best_epoch: best.epoch,
            validation: best.validation,
            parameter_count: count(self.model.parameters()),
            stopped_early,
        }))
    }
}

/// Numbers that are trained.
fn count(parameters: &[Parameter]) -> u64 {
    let trained = parameters.iter().filter(|parameter| parameter.init.is_trained());
    trained.map(|parameter| parameter.shape.iter().product::<usize>() as u64).sum()
}

/// Checks that a trial's network fits a dataset.
pub(super) fn check(trial: &Trial, shape: &[usize], classes: u32) -> Result<(), ComputeError> {
    let invalid = |error: shared::contract::NetworkError| ComputeError::InvalidJob(format!("the network's {error}"));
    trial.network.check(shape, classes as usize).map_err(invalid)
}

#[cfg(test)]
mod tests;

//! Measuring a network on rows.

use std::path::Path;

use engine::Purpose;
use shared::contract::{Dataset, Metrics, Trial};

use super::model::Model;
use super::rows::{Decoded, Rows, numbers};
use super::{Backend, ComputeError, Flow, Step, Watch, trainer, weights};

/// Measures the parameters in `checkpoint`, what a finished trial left, on every row of `split_file`:
/// the file of one of the dataset's splits, usually the test split. `None` where `watch` broke it off.
///
/// # Errors
/// The network does not fit the dataset, or a file is not what it should be.
pub fn evaluate(
    trial: &Trial,
    dataset: &Dataset,
    split_file: &Path,
    checkpoint: &Path,
    backend: &Backend,
    watch: &mut dyn Watch,
) -> Result<Option<Metrics>, ComputeError> {
    let accepted: Vec<u32> = dataset.splits.values().map(|split| split.rows).collect();
    // Every row is used once: nothing is kept.
    let mut decoded = Decoded::with_room(0);
    let mut rows = Rows::open(dataset, trial.data.image.as_ref(), &accepted, split_file, &mut decoded)?;
    trainer::check(trial, rows.shape(), dataset.classes)?;
    if rows.len() == 0 {
        return Err(ComputeError::InvalidJob(format!("the split in {} has no rows", split_file.display())));
    }
    let batch = rows.len().min(trial.training.batch_size as usize);
    let mut model = Model::new(&trial.network, rows.shape(), batch, Purpose::Infer, backend)?;
    model.set(&weights::read(checkpoint, model.parameters())?)?;
    let chosen = numbers(rows.len());
    let mut each = |fraction| watch.step(&Step { fraction, epoch: None });
    let Some(metrics) = measure(&mut model, &mut rows, &chosen, trial.training.batch_size, &mut each)? else {
        return Ok(None);
    };
    if metrics.loss.is_finite() {
        return Ok(Some(metrics));
    }
    Err(ComputeError::BadFile {
        what: format!("the parameters ({})", checkpoint.display()),
        problem: format!("they give a loss of {}", metrics.loss),
    })
}

/// Mean loss and error of `model` on `chosen` rows, `batch_size` at a time. `each` is told after each of these which share
/// is done, from 0 to 1, and may break off: then there is no answer.
pub(super) fn measure(
    model: &mut Model,
    rows: &mut Rows<'_>,
    chosen: &[u32],
    batch_size: u32,
    each: &mut dyn FnMut(f64) -> Flow,
) -> Result<Option<Metrics>, ComputeError> {
    let (mut loss, mut wrong, mut done) = (0.0, 0, 0);
    let (total, count) = (chosen.len(), chosen.len() as f64);
    for chosen in chosen.chunks(batch_size.max(1) as usize) {
        let batch = rows.batch(chosen)?;
        let (batch_loss, batch_wrong) = model.measure(&batch.inputs, &batch.labels)?;
        loss += batch_loss;
        wrong += batch_wrong;
        done += chosen.len();
        if each(done as f64 / count) == Flow::Pause && done < total {
            return Ok(None);
        }
    }
    Ok(Some(Metrics { loss: loss / count, error: wrong as f64 / count, rows: total as u64 }))
}

//! Softmax and cross-entropy in one, so that neither large nor small logits overflow.

use super::math::exp;
use super::view::lanes;
use crate::simd::{LANES, Path, Simd, on_path};

/// The mean cross-entropy, in nats, of logits `[N][classes]` against the rows' labels, and the logits' gradient
/// `(softmax - one at the label) / N`, which may not be there.
pub fn cross_entropy(path: Path, logits: &[f32], labels: &[u32], gradient: Option<&mut [f32]>) -> f64 {
    let classes = classes(logits, labels);
    let mut none = vec![0.0; if gradient.is_none() { classes } else { 0 }];
    let keep = gradient.is_some();
    let gradient = gradient.unwrap_or(&mut none);
    assert!(!keep || gradient.len() == logits.len(), "a gradient for every logit");
    let share = 1.0 / labels.len() as f64;
    let mut sum = 0.0;
    for (index, (row, label)) in logits.chunks_exact(classes).zip(labels).enumerate() {
        let gradient = &mut gradient[if keep { index * classes } else { 0 }..][..classes];
        let (most, total) = exponentials(path, row, gradient);
        let label = *label as usize;
        sum += libm::log(total) + most - f64::from(row[label]);
        if keep {
            // Each is rounded once: the factor is as exact as the sum.
            let factor = (share / total) as f32;
            gradient.iter_mut().for_each(|slope| *slope *= factor);
            gradient[label] -= share as f32;
        }
    }
    sum * share
}

/// The sum of the rows' cross-entropies, and how many rows have another largest logit than their label's; of equal ones the
/// first counts.
pub fn measure(path: Path, logits: &[f32], labels: &[u32]) -> (f64, u64) {
    let classes = classes(logits, labels);
    let mut scratch = vec![0.0; classes];
    let (mut sum, mut wrong) = (0.0, 0);
    for (row, label) in logits.chunks_exact(classes).zip(labels) {
        let (most, total) = exponentials(path, row, &mut scratch);
        let label = *label as usize;
        sum += libm::log(total) + most - f64::from(row[label]);
        wrong += u64::from(largest(row) != label);
    }
    (sum, wrong)
}

/// Classes of logits that have a label for each row.
fn classes(logits: &[f32], labels: &[u32]) -> usize {
    assert!(!labels.is_empty() && logits.len().is_multiple_of(labels.len()), "a label for each row");
    let classes = logits.len() / labels.len();
    assert!(labels.iter().all(|label| (*label as usize) < classes), "labels below the number of classes");
    classes
}

/// The place of the largest element; of equal ones the first.
fn largest(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best
}

/// Vectors whose exponentials are summed in fp32.
const TILE: usize = 8;

/// The largest logit and the sum of the exponentials of all after it is subtracted; these are left in `to`.
fn exponentials(path: Path, row: &[f32], to: &mut [f32]) -> (f64, f64) {
    assert_eq!(row.len(), to.len(), "a place for every logit");
    let (from, to) = (row.as_ptr(), to.as_mut_ptr());
    let (whole, rest) = (row.len() / LANES, row.len() % LANES);
    // SAFETY: both slices have as many floats; the path is the machine's.
    on_path!(path, S => unsafe {
        S::run(#[inline(always)] || {
            let (none, inside) = (S::splat(f32::NEG_INFINITY), S::mask(((1_u32 << rest) - 1) as u16));
            let end = from.add(whole * LANES);
            let mut most = if rest > 0 { S::select(inside, S::load_first(end, rest), none) } else { none };
            for vector in 0..whole {
                // What is not a number stands first: it is passed over here and met in the sum.
                most = S::max(S::load(from.add(vector * LANES)), most);
            }
            let most = lanes::<S>(most).into_iter().fold(f32::NEG_INFINITY, |most, x| if x > most { x } else { most });
            let shift = S::splat(most);
            let mut total = 0.0;
            for first in (0..whole).step_by(TILE) {
                let mut sum = S::splat(0.0);
                for vector in first..whole.min(first + TILE) {
                    let e = exp::<S>(S::sub(S::load(from.add(vector * LANES)), shift));
                    S::store(to.add(vector * LANES), e);
                    sum = S::add(sum, e);
                }
                total += lanes::<S>(sum).map(f64::from).iter().sum::<f64>();
            }
            if rest > 0 {
                let e = exp::<S>(S::sub(S::load_first(end, rest), shift));
                S::store_first(to.add(whole * LANES), e, rest);
                total += lanes::<S>(S::select(inside, e, S::splat(0.0))).map(f64::from).iter().sum::<f64>();
            }
            (f64::from(most), total)
        })
    })
}

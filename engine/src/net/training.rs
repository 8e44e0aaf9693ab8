//! Gradients, and steps by them.

use std::time::Instant;

use super::memory::Form;
use super::parameters::Slot;
use super::stage::{Run, Timed};
use super::{Mode, Net, Purpose};
use crate::kernels::optimizer::{Rule, Step};
use crate::parallel;

impl Net {
    /// A parameter's gradient after [`Net::backward`], in the order of a file; of one that is trained.
    pub fn gradient(&self, index: usize) -> Vec<f32> {
        let slot = &self.parameters.slots[index];
        slot.plain(&slot.gradient)
    }

    /// Computes the gradients of all parameters from those of the outputs of the first `n` examples, after a pass forwards in
    /// [`Mode::Train`].
    pub fn backward(&mut self, n: usize, slopes: &[f32], mode: &Mode<'_>) {
        self.backwards(n, slopes, mode, None);
    }

    /// The same, and moves every trained parameter by its gradient, which is not kept.
    pub fn step(&mut self, n: usize, slopes: &[f32], mode: &Mode<'_>, step: &Step) {
        for slot in self.parameters.slots.iter_mut().filter(|slot| slot.trained) {
            slot.begin(step.rule);
            slot.moved = false;
        }
        self.backwards(n, slopes, mode, Some(step));
        let path = self.path;
        for slot in self.parameters.slots.iter_mut().filter(|slot| slot.trained && !slot.moved) {
            let Slot { value, gradient, sums, .. } = slot;
            let sums = sums.iter_mut().map(|sum| &mut **sum);
            parallel::update(value, gradient, sums, |value, gradient, sums| step.run(path, value, gradient, sums));
        }
        self.stale = true;
    }

    fn backwards(&mut self, n: usize, slopes: &[f32], mode: &Mode<'_>, step: Option<&Step>) {
        assert!(self.purpose == Purpose::Train, "a network that is planned for training");
        // Nobody asks for a gradient where nothing is trained.
        let Some(place) = self.output_gradient else { return };
        let len = place.form.len();
        let to = &mut self.arena.write(&place)[..n * len];
        match place.form {
            Form::Row(_) => to.copy_from_slice(slopes),
            Form::Maps(maps) => {
                let plain = maps.channels * maps.size[0] * maps.size[1];
                for (from, to) in slopes.chunks_exact(plain).zip(to.chunks_exact_mut(len)) {
                    to.fill(0.0);
                    maps.pack(from, to);
                }
            }
        }
        let (arena, parameters, spaces) = (&mut self.arena, &mut self.parameters, &mut self.spaces);
        let mut run = Run { n, mode, step, arena, parameters, spaces, odd: &self.odd };
        for Timed { stage, spent: [_, backwards], .. } in self.stages.iter_mut().rev() {
            let begun = Instant::now();
            stage.backward(&mut run);
            *backwards += begun.elapsed();
        }
    }

    /// What `rule` remembers of a trained parameter, in the order of a file; zeros before the first step.
    pub fn sums(&mut self, index: usize, rule: Rule) -> Vec<Vec<f32>> {
        let slot = &mut self.parameters.slots[index];
        slot.begin(rule);
        slot.sums.iter().map(|sum| slot.plain(sum)).collect()
    }

    /// Goes on from what another step left: sum number `sum` of a trained parameter, in the order of a file.
    pub fn set_sum(&mut self, index: usize, rule: Rule, sum: usize, values: &[f32]) {
        let slot = &mut self.parameters.slots[index];
        slot.begin(rule);
        slot.set_sum(sum, values);
    }
}

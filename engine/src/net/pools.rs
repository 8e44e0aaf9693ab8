//! Pools.

use crate::kernels::pool::{AvgPool, GlobalAvgPool, MaxPool};
use crate::parallel;
use crate::simd::Path;
use crate::window::Window;

use super::memory::Place;
use super::wiring::{Into, Wiring};
use super::{Run, Stage};

pub(super) struct MaxPoolStage {
    places: Places,
    forward: MaxPool,
    backward: Option<MaxPool>,
    /// The taps that won.
    kept: Vec<u8>,
}

pub(super) struct AvgPoolStage {
    places: Places,
    forward: AvgPool,
    backward: Option<AvgPool>,
}

pub(super) struct GlobalAvgPoolStage {
    places: Places,
    forward: GlobalAvgPool,
    backward: Option<GlobalAvgPool>,
}

/// What every pool reads and writes.
struct Places {
    x: Place,
    y: Place,
    dy: Option<Place>,
    into: Into,
}

impl Places {
    fn new(wiring: &Wiring) -> Self {
        Self { x: wiring.inputs[0], y: wiring.output, dy: wiring.gradient, into: wiring.into[0] }
    }

    /// The gradients of output and input, where both are wanted, and whether the second is added to.
    fn gradients(&self) -> Option<(Place, Place, bool)> {
        match (self.dy, self.into) {
            (Some(dy), Into::Write(dx)) => Some((dy, dx, false)),
            (Some(dy), Into::Add(dx)) => Some((dy, dx, true)),
            _ => None,
        }
    }

    fn forward(&self, run: &mut Run<'_>, f: impl Fn(&[f32], &mut [f32]) + Sync + Send) {
        let len = self.x.form.len();
        let [x, y] = run.arena.write_all([&self.x, &self.y]);
        parallel::examples(run.n, y, self.y.form.len(), |example, y| f(&x[example * len..][..len], y));
    }

    fn backward(&self, run: &mut Run<'_>, f: impl Fn(usize, &[f32], &mut [f32], bool) + Sync + Send) {
        let Some((dy_place, dx_place, add)) = self.gradients() else { return };
        let len = dy_place.form.len();
        let [dy, dx] = run.arena.write_all([&dy_place, &dx_place]);
        parallel::examples(run.n, dx, dx_place.form.len(), |example, dx| {
            f(example, &dy[example * len..][..len], dx, add);
        });
    }
}

impl MaxPoolStage {
    pub(super) fn new(window: &Window, wiring: &Wiring, path: Path, batch: usize) -> Self {
        let places = Places::new(wiring);
        let forward = MaxPool::new(path, window, places.x.form.maps(), places.y.form.maps());
        let backward = places.gradients();
        let backward = backward.map(|(dy, dx, _)| MaxPool::new(path, window, dx.form.maps(), dy.form.maps()));
        let kept = vec![0; if backward.is_some() { batch * forward.kept() } else { 0 }];
        Self { places, forward, backward, kept }
    }
}

impl Stage for MaxPoolStage {
    fn forward(&mut self, run: &mut Run<'_>) {
        if self.backward.is_none() {
            self.places.forward(run, |x, y| self.forward.forward(x, y, None));
            return;
        }
        let (len, kept_len) = (self.places.x.form.len(), self.forward.kept());
        let [x, y] = run.arena.write_all([&self.places.x, &self.places.y]);
        let (y, kept) = ((&mut *y, self.places.y.form.len()), (self.kept.as_mut_slice(), kept_len));
        parallel::groups2(run.n, 1, y, kept, |example, y, kept| {
            self.forward.forward(&x[example * len..][..len], y, Some(kept));
        });
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let Some(kernel) = &self.backward else { return };
        let len = self.forward.kept();
        self.places.backward(run, |example, dy, dx, add| {
            kernel.backward(&self.kept[example * len..][..len], dy, dx, add);
        });
    }
}

impl AvgPoolStage {
    pub(super) fn new(window: &Window, count_padding: bool, wiring: &Wiring, path: Path) -> Self {
        let places = Places::new(wiring);
        let kernel = |x: Place, y: Place| AvgPool::new(path, window, count_padding, x.form.maps(), y.form.maps());
        let forward = kernel(places.x, places.y);
        let backward = places.gradients().map(|(dy, dx, _)| kernel(dx, dy));
        Self { places, forward, backward }
    }
}

impl Stage for AvgPoolStage {
    fn forward(&mut self, run: &mut Run<'_>) {
        self.places.forward(run, |x, y| self.forward.forward(x, y));
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let Some(kernel) = &self.backward else { return };
        self.places.backward(run, |_, dy, dx, add| kernel.backward(dy, dx, add));
    }
}

impl GlobalAvgPoolStage {
    pub(super) fn new(wiring: &Wiring, path: Path) -> Self {
        let places = Places::new(wiring);
        let forward = GlobalAvgPool::new(path, &places.x.form.maps());
        let backward = places.gradients().map(|(_, dx, _)| GlobalAvgPool::new(path, &dx.form.maps()));
        Self { places, forward, backward }
    }
}

impl Stage for GlobalAvgPoolStage {
    fn forward(&mut self, run: &mut Run<'_>) {
        self.places.forward(run, |x, y| self.forward.forward(x, y));
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let Some(kernel) = &self.backward else { return };
        self.places.backward(run, |_, dy, dx, add| kernel.backward(dy, dx, add));
    }
}

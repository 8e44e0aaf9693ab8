//! Two operands number by number, one of which may be a single pixel.

use super::view::{View, get, put};
use crate::graph::Pairwise;
use crate::simd::{LANES, Path, Simd, on_path};

/// `y = a op b`.
#[derive(Debug)]
pub struct Pairs {
    path: Path,
    op: Pairwise,
    a: View,
    b: View,
    y: View,
}

impl Pairs {
    /// Of operands like `a` and `b`, written to one like `y`. An operand of one pixel stands beside each of `y`'s.
    pub fn new(path: Path, op: Pairwise, a: View, b: View, y: View) -> Self {
        let [a, b] = [a, b].map(|mut view| {
            if view.count() == 1 {
                (view.rows, view.pixels, view.row, view.pixel) = (y.rows, y.pixels, 0, 0);
            }
            view
        });
        let shape = |view: &View| (view.channels, view.rows, view.pixels);
        assert!(shape(&a) == shape(&y) && shape(&b) == shape(&y), "operands of one shape");
        Self { path, op, a, b, y }
    }

    /// One example. Lanes behind the last channel become zero.
    pub fn run(&self, a: &[f32], b: &[f32], y: &mut [f32]) {
        assert!(a.len() >= self.a.len() && b.len() >= self.b.len(), "operands of the planned size");
        assert!(y.len() >= self.y.len(), "operands of the planned size");
        let (a_at, b_at, y_at) = (a.as_ptr(), b.as_ptr(), y.as_mut_ptr());
        macro_rules! each {
            ($f:ident) => {
                // SAFETY: the lengths are checked; the path is the machine's.
                on_path!(self.path, S => unsafe {
                    S::run(#[inline(always)] || {
                        for block in 0..self.y.blocks() {
                            let lanes = [&self.a, &self.b, &self.y].map(|view| view.lanes_of(block));
                            for row in 0..self.y.rows {
                                let a = a_at.add(self.a.at(block) + row * self.a.row);
                                let b = b_at.add(self.b.at(block) + row * self.b.row);
                                let y = y_at.add(self.y.at(block) + row * self.y.row);
                                for pixel in 0..self.y.pixels {
                                    let a = get::<S>(a.add(pixel * self.a.pixel), lanes[0]);
                                    let b = get::<S>(b.add(pixel * self.b.pixel), lanes[1]);
                                    put::<S>(y.add(pixel * self.y.pixel), S::$f(a, b), lanes[2]);
                                }
                            }
                        }
                    });
                })
            };
        }
        match self.op {
            Pairwise::Add => each!(add),
            Pairwise::Sub => each!(sub),
            Pairwise::Mul => each!(mul),
            Pairwise::Div => each!(div),
            Pairwise::Max => each!(max),
            Pairwise::Min => each!(min),
        }
        clear_behind(&self.y, y);
    }
}

/// Sets the lanes behind the last channel to zero: there might be what is not finite.
pub(super) fn clear_behind(view: &View, y: &mut [f32]) {
    let used = view.channels % LANES;
    if used == 0 || view.is_plain() {
        return;
    }
    let start = view.at(view.blocks() - 1);
    for row in 0..view.rows {
        for pixel in 0..view.pixels {
            y[start + row * view.row + pixel * view.pixel..][used..LANES].fill(0.0);
        }
    }
}

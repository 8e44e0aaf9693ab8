//! The kernels around convolutions beside a plain copy: GB/s of what each must read and write.

#![expect(clippy::print_stdout, reason = "a table for whoever runs it")]

use std::time::Instant;

use engine::graph::Activation;
use engine::kernels::activation::{self};
use engine::kernels::copy::{Channels, Flatten};
use engine::kernels::dropout::Dropout;
use engine::kernels::elementwise::Sum;
use engine::kernels::norm::{Backward, Constants, ElementNorm, GroupNorm, Mask, Moments, Normalise, Slopes};
use engine::kernels::optimizer::{Rule, Step};
use engine::kernels::pool::{AvgPool, GlobalAvgPool, MaxPool};
use engine::kernels::softmax::cross_entropy;
use engine::kernels::view::View;
use engine::maps::{Halo, Maps};
use engine::{Buffer, Path, Window};

/// Times kernels beside a copy of `floats` floats, which is timed again next to each.
struct Table {
    from: Buffer,
    to: Buffer,
}

impl Table {
    /// The least time of some calls, beside the least time of a copy in the same rounds.
    fn line(&mut self, name: &str, bytes: usize, mut f: impl FnMut()) {
        let (mut best, mut copy) = (f64::MAX, f64::MAX);
        for _ in 0..6 {
            best = best.min(once(&mut f));
            copy = copy.min(once(|| self.to.copy_from_slice(&self.from)));
        }
        let rate = bytes as f64 / best / 1e9;
        let copied = (8 * self.from.len()) as f64 / copy / 1e9;
        println!("  {name:32} {:9.1} us {rate:7.1} GB/s {:6.2} of a copy", best * 1e6, rate / copied);
    }
}

fn once(mut f: impl FnMut()) -> f64 {
    f();
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed().as_secs_f64() < 0.008 {
        f();
        count += 1;
    }
    begun.elapsed().as_secs_f64() / f64::from(count)
}

fn filled(len: usize) -> Buffer {
    let mut buffer = Buffer::zeros(len);
    buffer.iter_mut().enumerate().for_each(|(index, value)| *value = (index * 7919 % 1021) as f32 / 510.0 - 1.0);
    buffer
}

/// Maps of one size; `halo` columns and rows around.
fn table(path: Path, channels: usize, size: usize, halo: usize) {
    let halo = Halo { before: [halo; 2], after: [halo; 2] };
    let maps = Maps::new(channels, [size; 2]).with_halo(halo);
    let plain = channels * size * size * 4;
    println!("{} {channels} x {size} x {size}, halo {}, {} KB", path.name(), halo.before[0], plain / 1024);
    let mut table = Table { from: filled(plain / 4), to: filled(plain / 4) };
    let (x, z, mut y, mut dy) = (filled(maps.len()), filled(maps.len()), filled(maps.len()), filled(maps.len()));
    let view = View::maps(&maps);

    for (kernel, stride) in [(2, 2), (3, 2), (3, 1)] {
        // Padded by one on each side where the kernel is three wide.
        let output = (size + 2 * ((kernel - 1) / 2) - kernel) / stride + 1;
        let before = [(kernel - 1) / 2; 2];
        let window = Window { kernel: [kernel; 2], stride: [stride; 2], before, dilation: [1; 2], output: [output; 2] };
        let small = Maps::new(channels, window.output).with_halo(halo);
        let share = output * output * channels * 4;
        let mut out = filled(small.len());
        let max = MaxPool::new(path, &window, maps, small);
        let mut kept = vec![0; max.kept()];
        table.line(&format!("max {kernel}x{kernel}/{stride}"), plain + share + share / 4, || {
            max.forward(&x, &mut out, Some(&mut kept));
        });
        table.line(&format!("max {kernel}x{kernel}/{stride} without taps"), plain + share, || {
            max.forward(&x, &mut out, None);
        });
        table.line(&format!("max {kernel}x{kernel}/{stride} backward"), plain + share + share / 4, || {
            max.backward(&kept, &out, &mut y, false);
        });
        let average = AvgPool::new(path, &window, false, maps, small);
        table.line(&format!("average {kernel}x{kernel}/{stride}"), plain + share, || average.forward(&x, &mut out));
        table.line(&format!("average {kernel}x{kernel}/{stride} backward"), plain + share, || {
            average.backward(&out, &mut y, false);
        });
    }
    let global = GlobalAvgPool::new(path, &maps);
    let mut row = filled(channels * size * size);
    table.line("global average", plain, || global.forward(&x, &mut row));
    table.line("global average backward", plain, || global.backward(&row, &mut y, false));

    let moments = Moments::new(path, view);
    let mut part = vec![0.0; moments.len()];
    table.line("batch norm moments", plain, || moments.run(&x, &mut part));
    let (weight, bias) = (vec![0.5; channels], vec![0.1; channels]);
    let constants = Constants::new(&moments.merge(&part), 1e-5, &weight, &bias);
    for (name, residual, relu) in [("", false, false), (" + relu", false, true), (" + residual + relu", true, true)] {
        let norm = Normalise::new(path, view, residual.then_some(view), view, relu);
        table.line(&format!("normalise{name}"), plain * if residual { 3 } else { 2 }, || {
            norm.run(&constants, Some(&x), residual.then_some(&z[..]), &mut y);
        });
    }
    for (name, mask, streams) in [("", Mask::None, 2), (" + relu", Mask::Argument, 2)] {
        let backward = Backward::new(path, view, view, view, view, mask);
        table.line(&format!("sums{name}"), plain * streams, || backward.sums(&constants, &x, &dy, &mut part));
        let slopes = Slopes::new(&constants, size * size, &part);
        table.line(&format!("dx{name}"), plain * 3, || {
            backward.input(&constants, &slopes, &x, Some(&dy), &mut y, false);
        });
        table.line(&format!("dx{name}, in place"), plain * 3, || {
            backward.input(&constants, &slopes, &x, None, &mut y, false);
        });
    }
    let backward = Backward::new(path, view, view, view, view, Mask::Result);
    table.line("masked sums", plain * 4, || backward.masked_sums(&constants, &x, &z, &mut dy, &mut part));
    let group = GroupNorm::new(path, 8, 1e-5, [view; 2], [view; 2]);
    let mut kept = vec![0.0; group.kept()];
    table.line("group norm", plain * 3, || group.forward(&weight, &bias, &x, &mut y, &mut kept));
    table.line("group norm backward", plain * 5, || {
        group.backward(&weight, &kept, &x, Some(&dy), &mut y, false, &mut part);
    });
    let layer = ElementNorm::new(path, 1e-5, view, [view; 2], [view; 2]);
    table.line("layer norm", plain * 6, || {
        layer.forward(&x, &z, &dy, &mut y);
    });

    for function in [
        Activation::Relu,
        Activation::Relu6,
        Activation::LeakyRelu,
        Activation::HardSwish,
        Activation::Sigmoid,
        Activation::Silu,
        Activation::Tanh,
        Activation::Gelu,
    ] {
        let forward = activation::Forward::new(path, function, view, view);
        table.line(&format!("{function:?}"), plain * 2, || forward.run(Some(&x), &mut y));
        let backward = activation::Backward::new(path, function, view, view, view);
        table.line(&format!("{function:?} backward"), plain * 3, || backward.run(&x, Some(&z), &mut y, false));
    }
    let sum = Sum::new(path, view, view, view);
    table.line("add", plain * 3, || sum.run(&x, &z, &mut y));
    let sum = sum.with_relu();
    table.line("add + relu", plain * 3, || sum.run(&x, &z, &mut y));
    let dropout = Dropout::new(path, view, view);
    let keep = vec![0x5a3c; dropout.words()];
    table.line("dropout", plain * 2 + plain / 32, || dropout.run(&keep, 2.0, Some(&x), &mut y));
    let bare = Maps::new(channels, [size; 2]);
    let channel = Channels::new(path, &maps, 0, &bare, 0, channels);
    let mut packed = filled(bare.len());
    table.line("copy to maps without a halo", plain * 2, || channel.run(&x, &mut packed, false));
    let wider = Maps::new(channels + 24, [size; 2]);
    let shifted = Channels::new(path, &maps, 0, &wider, 24, channels);
    let mut packed = filled(wider.len());
    table.line("copy to channels from 24", plain * 2, || shifted.run(&x, &mut packed, false));
    let flatten = Flatten::new(path, &maps);
    table.line("flatten", plain * 2, || flatten.forward(&x, &mut row, false));
    table.line("flatten backward", plain * 2, || flatten.backward(&row, &mut y, false));
}

fn rows(path: Path, count: usize, features: usize) {
    println!("{} {count} rows of {features}, {} KB", path.name(), count * features / 256);
    let plain = count * features * 4;
    let mut table = Table { from: filled(plain / 4), to: filled(plain / 4) };
    let (x, dy, mut y) = (filled(plain / 4), filled(plain / 4), filled(plain / 4));
    let view = View::rows(count, features);
    let moments = Moments::new(path, view);
    let mut part = vec![0.0; moments.len()];
    table.line("batch norm moments", plain, || moments.run(&x, &mut part));
    let (weight, bias) = (vec![0.5; features], vec![0.1; features]);
    let constants = Constants::new(&moments.merge(&part), 1e-5, &weight, &bias);
    let norm = Normalise::new(path, view, None, view, true);
    table.line("normalise + relu", 2 * plain, || norm.run(&constants, Some(&x), None, &mut y));
    let backward = Backward::new(path, view, view, view, view, Mask::Argument);
    table.line("sums + relu", 2 * plain, || backward.sums(&constants, &x, &dy, &mut part));
    let slopes = Slopes::new(&constants, count, &part);
    table.line("dx + relu", 3 * plain, || backward.input(&constants, &slopes, &x, Some(&dy), &mut y, false));
    let one = View::rows(1, features);
    let layer = ElementNorm::new(path, 1e-5, one, [one; 2], [one; 2]);
    table.line("layer norm", 2 * plain, || {
        for (x, y) in x.chunks_exact(features).zip(y.chunks_exact_mut(features)) {
            layer.forward(&weight, &bias, x, y);
        }
    });
    let (mut dw, mut db) = (vec![0.0; features], vec![0.0; features]);
    table.line("layer norm backward", 3 * plain, || {
        for (x, y) in x.chunks_exact(features).zip(y.chunks_exact_mut(features)) {
            layer.backward(&weight, [0.1, 1.7], x, Some(&dy[..features]), y, false, &mut dw, &mut db);
        }
    });
    let labels = vec![1; count];
    table.line("softmax + cross-entropy", 2 * plain, || {
        cross_entropy(path, &x, &labels, Some(&mut y));
    });
}

fn optimizers(path: Path, count: usize) {
    println!("{} {count} weights", path.name());
    let mut table = Table { from: filled(count), to: filled(count) };
    let (mut w, g) = (filled(count), filled(count));
    let mut sums = [Buffer::zeros(count), Buffer::zeros(count)];
    for rule in [
        Rule::Sgd,
        Rule::Momentum { momentum: 0.9 },
        Rule::Nesterov { momentum: 0.9 },
        Rule::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
        Rule::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
    ] {
        let name = format!("{rule:?}");
        let name = name.split([' ', '{']).next().unwrap_or_default();
        let mut number = 0;
        table.line(name, count * 4 * (3 + 2 * rule.sums()), || {
            let mut slices: Vec<&mut [f32]> = sums.iter_mut().take(rule.sums()).map(|sum| &mut sum[..]).collect();
            Step { rule, rate: 1e-3, decay: 1e-4, number }.run(path, &mut w, &g, &mut slices);
            number += 1;
        });
    }
}

fn main() {
    let chosen = std::env::args().nth(1);
    for path in Path::available() {
        if chosen.as_ref().is_some_and(|name| name != path.name()) {
            continue;
        }
        println!("{} peak {:.1} GFLOP/s", path.name(), engine::peak::peak_flops(path) / 1e9);
        table(path, 64, 16, 1);
        table(path, 64, 56, 1);
        table(path, 256, 56, 0);
        rows(path, 64, 512);
        rows(path, 64, 1000);
        optimizers(path, 50_000);
        optimizers(path, 4_000_000);
    }
}

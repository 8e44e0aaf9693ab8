//! Single layers beside the machine's limit: all, or those named, e.g. `avx512 winograd`; `dense`, `winograd`, `gradient`,
//! `depthwise`, `linear`.

#![expect(clippy::print_stdout, reason = "its output is a table")]

use engine::kernels::dense::*;
use engine::kernels::depthwise;
use engine::kernels::linear::{Linear, Scratch};
use engine::kernels::winograd::{self, Winograd, pays};
use engine::maps::Maps;
use engine::{Buffer, Path, Window};
use std::time::Instant;

fn time(mut f: impl FnMut()) -> f64 {
    f();
    let mut best = f64::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        let mut n = 0;
        while begun.elapsed().as_secs_f64() < 0.015 {
            f();
            n += 1;
        }
        best = best.min(begun.elapsed().as_secs_f64() / f64::from(n));
    }
    best
}

/// The least seconds of each, taken in turns: the machine's speed changes under its other users.
fn times<const N: usize>(mut all: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut best = [f64::MAX; N];
    for _ in 0..24 {
        for (f, best) in all.iter_mut().zip(&mut best) {
            let begun = Instant::now();
            let mut n = 0;
            while n < 2 || begun.elapsed().as_secs_f64() < 0.002 {
                let begun = Instant::now();
                f();
                *best = best.min(begun.elapsed().as_secs_f64());
                n += 1;
            }
        }
    }
    best
}

/// Winograd's convolution beside the dense one, both ways, as shares of the dense peak, for one example and for several;
/// and what transforming the weights costs, as a share of one example's dense convolution at the peak.
fn winograd(path: Path, peak: f64) {
    for (ins, outs, size, kernel) in [
        (32, 64, 14, 5),
        (16, 16, 32, 3),
        (16, 16, 16, 3),
        (16, 16, 8, 3),
        (32, 32, 32, 3),
        (32, 32, 16, 3),
        (32, 32, 8, 3),
        (64, 64, 32, 3),
        (64, 64, 16, 3),
        (64, 64, 8, 3),
        (64, 64, 4, 3),
        (64, 64, 2, 3),
        (64, 64, 56, 3),
        (64, 64, 14, 3),
        (256, 256, 56, 3),
        (256, 256, 14, 3),
        (256, 256, 7, 3),
        (512, 512, 7, 3),
        (16, 16, 5, 3),
        (128, 128, 4, 3),
        (8, 16, 28, 5),
        (16, 16, 28, 5),
        (64, 64, 7, 5),
    ] {
        let shape = Shape { ins, outs, groups: 1, window: Window::same([kernel; 2], [size; 2]) };
        let x_maps = Maps::new(ins, [size; 2]).with_halo(shape.input_halo([size; 2]));
        let y_maps = Maps::new(outs, [size; 2]).with_halo(shape.gradient_halo([size; 2]));
        let flops = 2.0 * (ins * outs * size * size * kernel * kernel) as f64;
        let forward = Forward::new(path, &shape, x_maps, y_maps);
        let backward = InputGradient::new(path, &shape, x_maps, y_maps);
        let weights = Buffer::from(&vec![0.1; forward.packing().len().max(backward.len())][..]);
        let share = |seconds: f64| 100.0 * flops / seconds / peak;
        let mut prepared = [0.0; 2];
        print!("{ins:4} {outs:4} {size:3} k{kernel}");
        for examples in [1, 16] {
            let fast = Winograd::new(path, &shape, x_maps, y_maps).expect("it applies").for_examples(&shape, examples);
            let fast_back = Winograd::gradient(path, &shape, x_maps, y_maps).expect("it applies");
            let fast_back = fast_back.for_examples(&shape, examples);
            let mut scratch = Buffer::zeros(fast.scratch_len().max(fast_back.scratch_len()));
            let (mut turned, mut turned_back) = (Buffer::zeros(fast.len()), Buffer::zeros(fast_back.len()));
            prepared = [
                time(|| fast.transform(&weights, &mut turned)),
                time(|| fast_back.transform(&weights, &mut turned_back)),
            ];
            let (x, mut y) = (Buffer::zeros(x_maps.len() * examples), Buffer::zeros(y_maps.len() * examples));
            let (dy, mut dx) = (Buffer::zeros(y.len()), Buffer::zeros(x.len()));
            let mut dx_again = Buffer::zeros(x.len());
            let mut y_again = Buffer::zeros(y.len());
            let mut scratch_again = Buffer::zeros(scratch.len());
            let seconds = times([
                &mut || {
                    for (x, y) in x.chunks_exact(x_maps.len()).zip(y.chunks_exact_mut(y_maps.len())) {
                        forward.run(&weights, None, x, y, Finish::RELU);
                    }
                },
                &mut || fast.run(&turned, None, &x, &mut y_again, Finish::RELU, &mut scratch),
                &mut || {
                    for (dy, dx) in dy.chunks_exact(y_maps.len()).zip(dx.chunks_exact_mut(x_maps.len())) {
                        backward.run(&weights, dy, dx, Finish::PLAIN);
                    }
                },
                &mut || fast_back.run(&turned_back, None, &dy, &mut dx_again, Finish::PLAIN, &mut scratch_again),
            ]);
            let [dense, quick, dense_back, quick_back] = seconds.map(|seconds| share(seconds / examples as f64));
            print!(
                "  x{examples:<2} forward {dense:4.0}% -> {quick:4.0}% ({:.2})  dx {dense_back:4.0}% -> {quick_back:4.0}% ({:.2})",
                quick / dense,
                quick_back / dense_back
            );
        }
        let [there, back] = prepared.map(|seconds| 1e2 / share(seconds));
        println!("  weights {there:.2} {back:.2}  pays {} {}", pays(&shape, 1, 1), pays(&shape, 16, 1));
    }
}

fn main() {
    // Names of paths and of what to measure; all without any.
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let paths: Vec<Path> = Path::available();
    let is_asked = |name: &str, all: &[&str]| {
        asked.iter().any(|asked| asked == name) || !all.iter().any(|one| asked.iter().any(|asked| asked == one))
    };
    let names: Vec<&str> = paths.iter().map(|path| path.name()).collect();
    let parts = ["dense", "winograd", "gradient", "depthwise", "linear"];
    for path in paths.iter().copied().filter(|path| is_asked(path.name(), &names)) {
        let peak = (0..20).map(|_| engine::peak::peak_flops(path)).fold(0.0, f64::max);
        println!("{} peak {:.1} GFLOP/s", path.name(), peak / 1e9);
        if is_asked("dense", &parts) {
            dense(path, peak);
        }
        if is_asked("winograd", &parts) {
            winograd(path, peak);
        }
        if is_asked("gradient", &parts) {
            gradient(path, peak);
        }
        if is_asked("depthwise", &parts) {
            depthwise(path, peak);
        }
        if is_asked("linear", &parts) {
            linear(path, peak);
        }
    }
}

/// Fully connected layers and their gradients, as shares of the peak.
fn linear(path: Path, peak: f64) {
    let n = 64;
    for (units, inputs) in [(512, 3136), (512, 784), (256, 512), (10, 512), (1024, 1024)] {
        let linear = Linear::new(path, inputs, units);
        let mut weights = vec![0.1; linear.packing().len()];
        let (mut x, mut y) = (vec![0.1; n * inputs], vec![0.1; n * units]);
        let mut scratch = Scratch::default();
        let share = |seconds: f64| format!("{:5.1}%", 200.0 * (units * inputs * n) as f64 / seconds / peak);
        let forward = time(|| linear.forward(n, &weights, None, &x, &mut y, Finish::PLAIN, &mut scratch));
        let dx = time(|| linear.input_gradient(n, &weights, &y, &mut x, false, &mut scratch));
        let dw = time(|| linear.weight_gradient(n, &x, &y, &mut weights, &mut scratch));
        println!("{units:5}x{inputs:4} forward {} dx {} dw {}", share(forward), share(dx), share(dw));
    }
}

/// The weights' gradient by Winograd's method beside the dense one, for the examples of a part of a batch, as shares of the dense peak.
fn gradient(path: Path, peak: f64) {
    for (ins, outs, size, kernel) in [
        (16, 16, 32, 3),
        (32, 32, 16, 3),
        (64, 64, 8, 3),
        (64, 64, 4, 3),
        (64, 64, 32, 3),
        (64, 64, 56, 3),
        (128, 128, 16, 3),
        (128, 128, 28, 3),
        (128, 128, 7, 3),
        (256, 256, 14, 3),
        (512, 512, 7, 3),
        (16, 16, 8, 3),
        (16, 16, 5, 3),
        (8, 16, 28, 5),
        (16, 16, 28, 5),
        (32, 64, 14, 5),
        (64, 64, 7, 5),
    ] {
        let shape = Shape { ins, outs, groups: 1, window: Window::same([kernel; 2], [size; 2]) };
        let x_maps = Maps::new(ins, [size; 2]).with_halo(shape.input_halo([size; 2]));
        let y_maps = Maps::new(outs, [size; 2]).with_halo(shape.gradient_halo([size; 2]));
        let flops = 2.0 * (ins * outs * size * size * kernel * kernel) as f64;
        let dense = WeightGradient::new(path, &shape, x_maps, y_maps);
        let fast = winograd::WeightGradient::new(path, &shape, x_maps, y_maps).expect("it applies");
        let mut scratch = Buffer::zeros(fast.scratch_len());
        let (mut dw, mut dw_again) = (Buffer::zeros(dense.packing().len()), Buffer::zeros(dense.packing().len()));
        print!("{ins:4} {outs:4} {size:3} k{kernel}");
        // The last from memory that is not in the cache, as in a network.
        for (examples, parts) in [(1, 1), (8, 1), (8, 16)] {
            let count = examples * parts;
            let (x, dy) = (
                Buffer::from(&vec![0.5; x_maps.len() * count][..]),
                Buffer::from(&vec![0.5; y_maps.len() * count][..]),
            );
            let seconds = times([
                &mut || {
                    for (x, dy) in x.chunks_exact(x_maps.len()).zip(dy.chunks_exact(y_maps.len())) {
                        dense.add(x, dy, &mut dw);
                    }
                },
                &mut || {
                    let parts = x.chunks_exact(x_maps.len() * examples).zip(dy.chunks_exact(y_maps.len() * examples));
                    for (x, dy) in parts {
                        fast.add(x, dy, &mut dw_again, &mut scratch);
                    }
                },
            ]);
            let [dense, quick] = seconds.map(|seconds| 100.0 * flops * count as f64 / seconds / peak);
            print!("  {parts:2} x{examples:<2} {dense:4.0}% -> {quick:4.0}% ({:.2})", quick / dense);
        }
        println!();
    }
}

/// The depthwise convolution and its gradients.
fn depthwise(path: Path, peak: f64) {
    for (channels, size, kernel, stride) in [
        (32, 112, 3, 1),
        (96, 112, 3, 2),
        (144, 56, 3, 1),
        (192, 28, 3, 1),
        (384, 14, 3, 1),
        (960, 7, 3, 1),
        (192, 28, 3, 2),
        (64, 16, 3, 1),
        (240, 28, 5, 1),
        (480, 14, 5, 1),
        (144, 56, 5, 2),
        (384, 7, 7, 1),
    ] {
        let out = size / stride;
        let mut window = Window::same([kernel; 2], [size; 2]);
        (window.stride, window.output) = ([stride; 2], [size.div_ceil(stride); 2]);
        let shape = Shape { ins: channels, outs: channels, groups: channels, window };
        let x_maps = Maps::new(channels, [size; 2]).with_halo(shape.input_halo([size; 2]));
        let y_maps = Maps::new(channels, window.output).with_halo(shape.gradient_halo([size; 2]));
        let weights = Buffer::from(&vec![0.1; depthwise::packed_len(shape.outs, shape.window.taps())][..]);
        let (x, mut y) = (Buffer::zeros(x_maps.len()), Buffer::zeros(y_maps.len()));
        let (dy, mut dx, mut dw) = (Buffer::zeros(y.len()), Buffer::zeros(x.len()), Buffer::zeros(weights.len()));
        let forward = depthwise::Forward::new(path, &shape, x_maps, y_maps);
        let input = depthwise::InputGradient::new(path, &shape, x_maps, y_maps);
        let weight = depthwise::WeightGradient::new(path, &shape, x_maps, y_maps);
        let mut reordered = Buffer::zeros(input.len());
        input.reorder(&weights, &mut reordered);
        let seconds = times([
            &mut || forward.run(&weights, None, &x, &mut y, Finish::RELU),
            &mut || weight.add(&x, &dy, &mut dw),
            &mut || input.run(&reordered, &dy, &mut dx, Finish::PLAIN),
        ]);
        let flops = 2.0 * (channels * out * out * kernel * kernel) as f64;
        let [f, w, i] = seconds.map(|seconds| 100.0 * flops / seconds / peak);
        println!("{channels:4} depthwise {size:3} k{kernel} s{stride}  forward {f:5.1}%  dw {w:5.1}%  dx {i:5.1}%");
    }
}

/// The dense convolution and its gradients.
fn dense(path: Path, peak: f64) {
    for (ins, outs, size, kernel, stride) in [
        (1, 32, 28, 5, 1),
        (32, 64, 14, 5, 1),
        (16, 16, 32, 3, 1),
        (32, 32, 16, 3, 1),
        (64, 64, 8, 3, 1),
        (16, 32, 32, 3, 2),
        (64, 64, 56, 3, 1),
        (256, 64, 56, 1, 1),
        (512, 2048, 7, 1, 1),
        (3, 64, 224, 7, 2),
    ] {
        let out = size / stride;
        let window = Window {
            kernel: [kernel; 2],
            stride: [stride; 2],
            before: [(kernel - 1) / 2; 2],
            dilation: [1, 1],
            output: [out; 2],
        };
        let shape = Shape { ins, outs, groups: 1, window };
        let mut x_maps = Maps::new(ins, [size; 2]).with_halo(shape.input_halo([size; 2]));
        if ins < 8 {
            x_maps = x_maps.planar();
        }
        let y_maps = Maps::new(outs, [out; 2]).with_halo(shape.gradient_halo([size; 2]));
        let mut x = vec![0.5; x_maps.len()];
        let mut y = vec![0.1; y_maps.len()];
        let forward = Forward::new(path, &shape, x_maps, y_maps);
        let mut weights = vec![0.1; forward.packing().len()];
        let flops = 2.0 * (ins * outs * out * out * kernel * kernel) as f64;
        let share = |seconds: f64| format!("{:5.1}%", 100.0 * flops / seconds / peak);
        let f = time(|| forward.run(&weights, None, &x, &mut y, Finish::PLAIN));
        let gradient = WeightGradient::new(path, &shape, x_maps, y_maps);
        let w = time(|| gradient.add(&x, &y, &mut weights));
        let i = if ins < 8 {
            f64::NAN
        } else {
            let gradient = InputGradient::new(path, &shape, x_maps, y_maps);
            let turned = vec![0.1; gradient.len()];
            time(|| gradient.run(&turned, &y, &mut x, Finish::PLAIN))
        };
        println!(
            "{ins:4} {outs:4} {size:3} k{kernel} s{stride}  forward {}  dw {}  dx {}",
            share(f),
            share(w),
            share(i)
        );
    }
}

//! Fully connected layers beside the machine's limit.
#![expect(clippy::print_stdout, reason = "its output")]
use engine::Path;
use engine::kernels::dense::Finish;
use engine::kernels::linear::{Linear, Scratch};
use std::time::Instant;

fn time(mut f: impl FnMut()) -> f64 {
    f();
    let mut best = f64::MAX;
    for _ in 0..7 {
        let begun = Instant::now();
        let mut n = 0;
        while begun.elapsed().as_secs_f64() < 0.03 {
            f();
            n += 1;
        }
        best = best.min(begun.elapsed().as_secs_f64() / f64::from(n));
    }
    best
}

fn main() {
    for path in Path::available() {
        let peak = engine::peak::peak_flops(path);
        println!("{} peak {:.1} GFLOP/s", path.name(), peak / 1e9);
        for (units, inputs) in [(512, 3136), (512, 784), (256, 512), (10, 512), (1024, 1024)] {
            let n = 64;
            let linear = Linear::new(path, inputs, units);
            let mut w = vec![0.1; linear.packing().len()];
            let (mut x, mut y) = (vec![0.1; n * inputs], vec![0.1; n * units]);
            let mut scratch = Scratch::default();
            let flops = 2.0 * (units * inputs * n) as f64;
            let share = |seconds: f64| format!("{:5.1}%", 100.0 * flops / seconds / peak);
            let f = time(|| linear.forward(n, &w, None, &x, &mut y, Finish::PLAIN, &mut scratch));
            let d = time(|| linear.input_gradient(n, &w, &y, &mut x, false, &mut scratch));
            let g = time(|| linear.weight_gradient(n, &x, &y, &mut w, &mut scratch));
            println!("{units:5}x{inputs:4} forward {} dx {} dw {}", share(f), share(d), share(g));
        }
    }
}

//! Single layers beside the machine's limit.
use engine::kernels::dense::*;
use engine::maps::Maps;
use engine::{Path, Window};
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
                x_maps = x_maps.planar()
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
}

//! Fused convolutions with pools beside the dense kernels on the same shapes.
#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

use engine::kernels::dense::{Finish, Forward, InputGradient, Shape, WeightGradient};
use engine::kernels::pooled;
use engine::maps::Maps;
use engine::{Buffer, Path, Window};
use std::time::Instant;

/// Shortest of several rounds of each, in turn: they share the machine's moods.
fn times<const N: usize>(mut all: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut best = [f64::MAX; N];
    for round in 0..8 {
        for (f, best) in all.iter_mut().zip(&mut best) {
            let begun = Instant::now();
            let mut n = 0;
            while begun.elapsed().as_secs_f64() < 0.005 {
                f();
                n += 1;
            }
            if round > 0 {
                *best = best.min(begun.elapsed().as_secs_f64() / f64::from(n));
            }
        }
    }
    best
}

fn noise(to: &mut [f32]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for value in to {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *value = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
    }
}

fn main() {
    let only: Option<usize> = std::env::args().nth(1).and_then(|index| index.parse().ok());
    for path in Path::available().into_iter().take(if only.is_some() { 1 } else { 3 }) {
        let peak = engine::peak::peak_flops(path);
        println!("{} peak {:.1} GFLOP/s; times in µs", path.name(), peak / 1e9);
        for (index, (ins, outs, size, kernel)) in
            [(1, 32, 28, 5), (32, 64, 14, 5), (3, 32, 32, 3), (32, 64, 16, 3), (64, 128, 28, 3), (16, 16, 64, 3)]
                .into_iter()
                .enumerate()
        {
            if only.is_some_and(|only| only != index) {
                continue;
            }
            let window = Window::same([kernel; 2], [size; 2]);
            let shape = Shape { ins, outs, groups: 1, window };
            let mut x_maps = Maps::new(ins, [size; 2]).with_halo(shape.input_halo([size; 2]));
            if ins < 8 {
                x_maps = x_maps.planar();
            }
            let full = Maps::new(outs, [size; 2]).with_halo(shape.gradient_halo([size; 2]));
            let half = Maps::new(outs, [size / 2; 2]);
            let (mut x, mut dx) = (Buffer::zeros(x_maps.len()), Buffer::zeros(x_maps.len()));
            let mut values = vec![0.0; ins * size * size];
            noise(&mut values);
            x_maps.pack(&values, &mut x);
            let (mut y, mut dy) = (Buffer::zeros(full.len()), Buffer::zeros(full.len()));
            let (mut pooled, mut dpooled) = (Buffer::zeros(half.len()), Buffer::zeros(half.len()));
            dy.fill(0.1);
            noise(&mut dpooled);
            let forward = Forward::new(path, &shape, x_maps, full);
            let weight = WeightGradient::new(path, &shape, x_maps, full);
            let input = (ins >= 8).then(|| InputGradient::new(path, &shape, x_maps, full));
            let turned = Buffer::zeros(input.as_ref().map_or(0, InputGradient::len));
            let mut weights = Buffer::zeros(forward.packing().len());
            noise(&mut weights);
            let mut dw = Buffer::zeros(weights.len());
            let bias = Buffer::zeros(outs.next_multiple_of(16));
            let flops = 2.0 * (ins * outs * size * size * kernel * kernel) as f64;

            let fused = pooled::Forward::new(path, &shape, x_maps, half).expect("plain");
            let mut winners = vec![0; fused.winners_len()];
            let mut scratch = vec![0.0; fused.scratch_len()];
            let sparse =
                pooled::Backward::new(path, &shape, x_maps, half, input.as_ref().map(|_| x_maps)).expect("plain");
            let mut sums = Buffer::zeros(sparse.sums_len());
            let mut db = Buffer::zeros(bias.len());
            let mut transposed = Buffer::zeros(sparse.transposed_len());
            sparse.transpose(&weights, &mut transposed);
            let mut memory = sparse.scratch();
            let [dense, fused] =
                times([&mut || forward.run(&weights, Some(&bias), &x, &mut y, Finish::RELU), &mut || {
                    fused.run(&weights, Some(&bias), &x, &mut pooled, &mut winners, &mut scratch);
                }]);
            println!(
                "{ins:4} {outs:4} {size:3} k{kernel}  forward dense {:6.2} ({:5.1}%) fused {:6.2} ({:.2})",
                dense * 1e6,
                100.0 * flops / dense / peak,
                fused * 1e6,
                fused / dense
            );
            for live in [0.5, 0.75] {
                let mut chances = vec![0.0; winners.len() * 2];
                noise(&mut chances);
                for (winner, chance) in winners.iter_mut().zip(chances.chunks_exact(2)) {
                    let pixel = ((chance[0] + 1.0) * 2.0) as u8;
                    *winner = if (chance[1] + 1.0) / 2.0 < live { pixel } else { pooled::DEAD };
                }
                let mut other = sparse.scratch();
                let [dense_dw, dw, dense_dx, dx, both] = {
                    let given = pooled::Given { x: &x, dy: &dpooled, winners: &winners };
                    let (mut sums2, mut db2) = (Buffer::zeros(sums.len()), Buffer::zeros(db.len()));
                    let mut dx2 = Buffer::zeros(dx.len());
                    let mut dx3 = Buffer::zeros(dx.len());
                    let mut third = sparse.scratch();
                    times([
                        &mut || weight.add(&x, &dy, &mut dw),
                        &mut || {
                            let sums = pooled::Sums { dw: &mut sums, db: &mut db };
                            sparse.run(given, Some(sums), None, &mut memory);
                        },
                        &mut || {
                            if let Some(input) = &input {
                                input.run(&turned, &dy, &mut dx, Finish::PLAIN);
                            }
                        },
                        &mut || {
                            if input.is_some() {
                                let to = pooled::Input { transposed: &transposed, dx: &mut dx2, add: false };
                                sparse.run(given, None, Some(to), &mut other);
                            }
                        },
                        &mut || {
                            let sums = pooled::Sums { dw: &mut sums2, db: &mut db2 };
                            let to = input.as_ref().map(|_| pooled::Input {
                                transposed: &transposed,
                                dx: &mut dx3,
                                add: false,
                            });
                            sparse.run(given, Some(sums), to, &mut third);
                        },
                    ])
                };
                let us = 1e6;
                print!(
                    "    live {live:.2}  dw dense {:6.2} sparse {:6.2} ({:.2})",
                    dense_dw * us,
                    dw * us,
                    dw / dense_dw
                );
                if input.is_some() {
                    print!("  dx dense {:6.2} sparse {:6.2} ({:.2})", dense_dx * us, dx * us, dx / dense_dx);
                    print!("  both sparse {:6.2} ({:.2})", both * us, both / (dense_dx + dense_dw));
                }
                println!();
            }
        }
    }
}

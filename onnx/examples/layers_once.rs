//! An ONNX file's layers, each in microseconds and as a share of the most products that one thread reaches on a SIMD path.
//!
//! `layers_once MODEL.onnx [SECONDS] [fp32|bf16]`: one example, one thread, all paths of the machine in turns, the least time of each layer. Layers
//! of Winograd count as the products of the definition, so they may pass the peak.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use engine::{Mode, Net, Precision, Purpose};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let model = arguments.get(1).context("usage: layers_once MODEL.onnx [SECONDS] [fp32|bf16]")?;
    let seconds: f64 = arguments.get(2).map_or("2", String::as_str).parse().context("read the seconds")?;
    let precision = match arguments.get(3).map_or("fp32", String::as_str) {
        "fp32" => Precision::Fp32,
        "bf16" => Precision::Bf16,
        other => bail!("no precision `{other}`: fp32 or bf16"),
    };
    engine::set_threads(1);
    let network = onnx::load(Path::new(model), &onnx::Options::default()).with_context(|| model.clone())?;
    let len: usize = network.graph.shape(network.graph.input()).iter().product();
    let pixels: Vec<f32> = (0..len).map(|index| (index * 7919 % 1009) as f32 / 504.5 - 1.0).collect();
    let paths = engine::Path::available().into_iter().filter(|path| *path != engine::Path::Portable);
    let plan = |path| {
        let mut net = Net::with_precision(&network.graph, 1, Purpose::Infer, path, precision)?;
        network.fill(&mut net)?;
        anyhow::Ok((engine::peak::peak_flops(path), net))
    };
    let mut nets = paths.map(plan).collect::<anyhow::Result<Vec<_>>>()?;
    let mut best = vec![Vec::new(); nets.len()];
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < seconds {
        for ((_, net), best) in nets.iter_mut().zip(&mut best) {
            // One pass finds the caches as the other path has left them; the next one as it does in a row of examples.
            for _ in 0..3 {
                net.set_input(0, &pixels);
                let spent = |net: &Net| net.times().map(|(_, [spent, _])| spent).collect::<Vec<_>>();
                let before = spent(net);
                net.forward(1, &Mode::Infer);
                best.resize(before.len(), Duration::MAX);
                let own = spent(net).into_iter().zip(before).map(|(after, before)| after - before);
                best.iter_mut().zip(own).for_each(|(best, own)| *best = own.min(*best));
            }
        }
    }
    let Some((_, first)) = nets.first() else { bail!("a machine without SIMD") };
    for (index, ((name, _), products)) in first.times().zip(first.products()).enumerate() {
        for ((peak, _), best) in nets.iter().zip(&best) {
            let seconds = best[index].as_secs_f64();
            print!("{:8.1} us {:4.0}%  ", seconds * 1e6, 200.0 * products as f64 / seconds / peak);
        }
        println!("{name}");
    }
    for ((peak, net), best) in nets.iter().zip(&best) {
        let (seconds, products) = (best.iter().sum::<Duration>().as_secs_f64(), net.products().sum::<usize>());
        println!(
            "{}: {:.2} ms, {:.1} examples/s, {:.0}% of {:.1} GFLOP/s",
            net.path().name(),
            seconds * 1e3,
            seconds.recip(),
            200.0 * products as f64 / seconds / peak,
            peak / 1e9
        );
    }
    Ok(())
}

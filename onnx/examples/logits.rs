//! Runs an ONNX file on an input and prints what comes out: `logits MODEL.onnx INPUT.f32 [HEIGHTxWIDTH]`.
//!
//! The input holds one example or several, as little-endian floats in the file's own order. With `-` random numbers are taken.
//! Each example's outputs are a line. On standard error stands how long the network took.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use engine::{Mode, Net, Purpose};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let (model, input) = (arguments.get(1).context("name a model")?, arguments.get(2).map_or("-", String::as_str));
    let size = arguments.get(3).and_then(|size| size.split_once('x'));
    let size = size.map(|(height, width)| anyhow::Ok([height.parse()?, width.parse()?])).transpose()?;
    let begun = Instant::now();
    let network = onnx::load(Path::new(model), &onnx::Options { size }).with_context(|| model.clone())?;
    let loaded = begun.elapsed();
    let shape = network.graph.shape(network.graph.input()).to_vec();
    let len: usize = shape.iter().product();
    let rows: Vec<f32> = if input == "-" {
        (0..len).map(|index| ((index * 7919 % 1009) as f32 / 504.5) - 1.0).collect()
    } else {
        let bytes = std::fs::read(input).with_context(|| input.to_string())?;
        bytes.as_chunks().0.iter().map(|number| f32::from_le_bytes(*number)).collect()
    };
    let mut net = Net::new(&network.graph, 1, Purpose::Infer, engine::Path::best())?;
    network.fill(&mut net)?;
    let mut best = f64::INFINITY;
    let mut first = 0.0;
    for example in rows.chunks_exact(len) {
        let example = if network.channels_last { planar(example, &shape) } else { example.to_vec() };
        for round in 0..5 {
            let begun = Instant::now();
            net.set_input(0, &example);
            net.forward(1, &Mode::Infer);
            let spent = begun.elapsed().as_secs_f64();
            best = best.min(spent);
            if round == 0 {
                first = spent;
            }
        }
        let line: Vec<String> = net.outputs(1).iter().map(|x| format!("{x:e}")).collect();
        println!("{}", line.join(" "));
    }
    eprintln!(
        "{} nodes, loaded in {:.1} ms, first {:.2} ms, best {:.2} ms",
        network.graph.nodes().len(),
        loaded.as_secs_f64() * 1e3,
        first * 1e3,
        best * 1e3,
    );
    if std::env::var_os("LAYERS").is_some() {
        for (name, [spent, _]) in net.times() {
            eprintln!("{:8.2} ms  {name}", spent.as_secs_f64() * 200.0);
        }
    }
    Ok(())
}

/// `[H, W, C]` as `[C, H, W]`.
fn planar(example: &[f32], shape: &[usize]) -> Vec<f32> {
    let pixels = shape[1] * shape[2];
    (0..example.len()).map(|at| example[at % pixels * shape[0] + at / pixels]).collect()
}

//! Our side of the benchmark of outputs: runs an ONNX file for a while in this process and prints a line of JSON.
//!
//! `infer_once MODEL.onnx SECONDS THREADS [fp32|bf16|int8] [SIMD PATH]`; each example alone, on pixels that the peers' script makes alike.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::time::Instant;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use engine::{Mode, Net, Precision, Purpose, Ranges};

fn main() -> anyhow::Result<()> {
    let started = Instant::now();
    let arguments: Vec<String> = std::env::args().collect();
    let [_, model, seconds, threads, rest @ ..] = arguments.as_slice() else {
        bail!("usage: infer_once MODEL.onnx SECONDS THREADS [fp32|bf16|int8] [SIMD PATH]");
    };
    let seconds: f64 = seconds.parse().context("read the seconds")?;
    engine::set_threads(threads.parse().context("read the number of threads")?);
    let precision = match rest.first().map_or("fp32", String::as_str) {
        "fp32" => Precision::Fp32,
        "bf16" => Precision::Bf16,
        "int8" => Precision::Int8,
        other => bail!("no precision `{other}`: fp32, bf16 or int8"),
    };
    let mut paths = engine::Path::available().into_iter();
    let path = match rest.get(1) {
        None => paths.next().context("find a path")?,
        Some(name) => {
            paths.find(|path| path.name() == name).with_context(|| format!("this machine has no `{name}`"))?
        }
    };
    let file = std::fs::File::open(model).with_context(|| model.clone())?;
    // SAFETY: as an executor's: nobody changes the file meanwhile.
    let file = unsafe { memmap2::Mmap::map(&file) }.with_context(|| model.clone())?;
    let network =
        onnx::parse(Bytes::from_owner(file), None, &onnx::Options::default()).with_context(|| model.clone())?;
    let len: usize = network.graph.shape(network.graph.input()).iter().product();
    let pixel = |index: u64| (index.wrapping_mul(2_654_435_761) % 1000) as f32 / 500.0 - 1.0;
    let pixels: Vec<f32> = (0..len as u64).map(pixel).collect();
    let (purpose, plain) = match precision {
        Precision::Int8 => (Purpose::Observe, Precision::Fp32),
        precision => (Purpose::Infer, precision),
    };
    let mut net = Net::with_precision(&network.graph, 1, purpose, path, plain)?;
    network.fill(&mut net)?;
    if precision == Precision::Int8 {
        // Calibrated on the same pixels: what is measured is the speed.
        let mut ranges = Ranges::new();
        net.set_input(0, &pixels);
        net.observe(1, &mut ranges);
        net = Net::quantized(&network.graph, 1, path, &ranges)?;
        network.fill(&mut net)?;
    }
    let mut step = || {
        net.set_input(0, &pixels);
        net.forward(1, &Mode::Infer);
        net.outputs(1)
    };
    let logits = step();
    let first = started.elapsed().as_secs_f64();
    step();
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed().as_secs_f64() < seconds {
        step();
        count += 1;
    }
    let rate = f64::from(count) / begun.elapsed().as_secs_f64();
    let logits: Vec<String> = logits.iter().map(|logit| format!("{logit:e}")).collect();
    println!(
        "{{\"images_per_second\": {rate}, \"first_seconds\": {first}, \"megabytes\": {}, \"logits\": [{}]}}",
        peak_megabytes().unwrap_or(f64::NAN),
        logits.join(", ")
    );
    Ok(())
}

/// The most memory that this process has had.
fn peak_megabytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

//! Steps of training: `train cnn|resnet|mlp [batches] [path]`, on noise.
#![expect(clippy::print_stdout, reason = "its output")]
use std::time::Instant;

use engine::graph::{Activation, Affine, Graph, Op, Value};
use engine::kernels::optimizer::{Rule, Step};
use engine::kernels::softmax::cross_entropy;
use engine::{Mode, Net, Path, Purpose, Window};

struct Builder(Graph);

impl Builder {
    fn conv(&mut self, x: Value, filters: usize, kernel: usize, stride: usize, bias: bool) -> Value {
        let &[channels, height, width] = self.0.shape(x) else { panic!() };
        let output = [height, width].map(|size| (size - 1) / stride + 1);
        let window = Window {
            kernel: [kernel; 2],
            stride: [stride; 2],
            before: [(kernel - 1) / 2; 2],
            dilation: [1, 1],
            output,
        };
        let weight = self.0.parameter("w", &[filters, channels, kernel, kernel], true);
        let bias = bias.then(|| self.0.parameter("b", &[filters], true));
        self.0.add(Op::Conv { window, groups: 1, weight, bias }, &[x]).expect("fits")
    }
    fn linear(&mut self, x: Value, units: usize) -> Value {
        let inputs = self.0.shape(x)[0];
        let weight = self.0.parameter("w", &[units, inputs], true);
        let bias = Some(self.0.parameter("b", &[units], true));
        self.0.add(Op::Linear { weight, bias }, &[x]).expect("fits")
    }
    fn relu(&mut self, x: Value) -> Value {
        self.0.add(Op::Activation(Activation::Relu), &[x]).expect("fits")
    }
    fn pool(&mut self, x: Value) -> Value {
        let &[_, height, width] = self.0.shape(x) else { panic!() };
        let window = Window {
            kernel: [2, 2],
            stride: [2, 2],
            before: [0, 0],
            dilation: [1, 1],
            output: [height / 2, width / 2],
        };
        self.0.add(Op::MaxPool(window), &[x]).expect("fits")
    }
    fn norm(&mut self, x: Value) -> Value {
        let c = [self.0.shape(x)[0]];
        let affine = Affine { weight: self.0.parameter("g", &c, true), bias: self.0.parameter("b", &c, true) };
        let (mean, variance) = (self.0.parameter("m", &c, false), self.0.parameter("v", &c, false));
        self.0.add(Op::BatchNorm { momentum: 0.1, epsilon: 1e-5, affine, mean, variance }, &[x]).expect("fits")
    }
    fn block(&mut self, x: Value, filters: usize, stride: usize) -> Value {
        let y = self.conv(x, filters, 3, stride, false);
        let y = self.norm(y);
        let y = self.relu(y);
        let y = self.conv(y, filters, 3, 1, false);
        let y = self.norm(y);
        let other = if stride == 1 {
            x
        } else {
            let o = self.conv(x, filters, 1, stride, false);
            self.norm(o)
        };
        let y = self.0.add(Op::Add, &[y, other]).expect("fits");
        self.relu(y)
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let which = args.get(1).map_or("cnn", String::as_str);
    let batches: usize = args.get(2).map_or(50, |n| n.parse().expect("a number"));
    let path =
        args.get(3).map_or(Path::best(), |name| *Path::available().iter().find(|p| p.name() == name).expect("a path"));
    engine::set_threads(args.get(4).map_or(1, |n| n.parse().expect("a number")));
    let begun = Instant::now();
    let mut b = match which {
        "cnn" => Builder(Graph::new(&[1, 28, 28])),
        "resnet" => Builder(Graph::new(&[3, 32, 32])),
        _ => Builder(Graph::new(&[784])),
    };
    let x = b.0.input();
    match which {
        "cnn" => {
            let x = b.conv(x, 32, 5, 1, true);
            let x = b.relu(x);
            let x = b.pool(x);
            let x = b.conv(x, 64, 5, 1, true);
            let x = b.relu(x);
            let x = b.pool(x);
            let x = b.0.add(Op::Flatten, &[x]).expect("fits");
            let x = b.linear(x, 512);
            let x = b.relu(x);
            b.linear(x, 10);
        }
        "resnet" => {
            let x = b.conv(x, 16, 3, 1, false);
            let x = b.norm(x);
            let mut x = b.relu(x);
            for (filters, stride) in [(16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)] {
                x = b.block(x, filters, stride);
            }
            let x = b.0.add(Op::GlobalAvgPool, &[x]).expect("fits");
            b.linear(x, 10);
        }
        _ => {
            let x = b.linear(x, 512);
            let x = b.relu(x);
            let x = b.linear(x, 256);
            let x = b.relu(x);
            b.linear(x, 10);
        }
    }
    let n = 64;
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut net = Net::new(&b.0, n, Purpose::Train, path).expect("a network");
    for (index, p) in b.0.parameters().iter().enumerate() {
        let count: usize = p.shape.iter().product();
        let fan: usize = p.shape.iter().skip(1).product();
        let values: Vec<f32> = (0..count)
            .map(|_| match p.name.as_str() {
                "w" => next() * (6.0 / fan as f32).sqrt(),
                "g" | "v" => 1.0,
                _ => 0.0,
            })
            .collect();
        net.set_parameter(index, &values);
    }
    let inputs: usize = b.0.shape(b.0.input()).iter().product();
    let data: Vec<f32> = (0..16 * n * inputs).map(|_| next().max(0.0)).collect();
    let labels: Vec<u32> = (0..16 * n).map(|at| (data[at * inputs + 99] * 9.99) as u32).collect();
    let mode = Mode::Train { drop: &|_, _| {} };
    let mut gradient = vec![0.0; n * 10];
    let mut loss = 0.0;
    let mut step = |net: &mut Net, at: usize| {
        let at = at % 16;
        for example in 0..n {
            net.set_input(example, &data[(at * n + example) * inputs..][..inputs]);
        }
        net.forward(n, &mode);
        loss = cross_entropy(path, &net.outputs(n), &labels[at * n..][..n], Some(&mut gradient));
        net.step(n, &gradient, &mode, &Step { rule: Rule::Sgd, rate: 0.01, decay: 0.0, number: at as u64 });
        loss
    };
    let first = step(&mut net, 0);
    let after = begun.elapsed().as_secs_f64();
    for at in 0..8 {
        step(&mut net, at);
    }
    let t = Instant::now();
    let mut last = 0.0;
    for at in 0..batches {
        last = step(&mut net, at);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let rss = status
        .lines()
        .find(|l| l.starts_with("VmHWM"))
        .unwrap_or("")
        .split_whitespace()
        .nth(1)
        .unwrap_or("0")
        .parse::<f64>()
        .unwrap_or(0.0)
        / 1024.0;
    println!(
        "{which} {}: {:.0} images/s, first step {after:.3} s, loss {first:.3} to {last:.3}, buffers {} MB, RSS {rss:.0} MB",
        path.name(),
        (batches * n) as f64 / t.elapsed().as_secs_f64(),
        net.bytes() >> 20
    );
    let steps = (batches + 9) as f64 * n as f64;
    for (name, [forwards, backwards]) in net.times() {
        println!(
            "{name:40} {:8.2} {:8.2} us an image",
            forwards.as_secs_f64() * 1e6 / steps,
            backwards.as_secs_f64() * 1e6 / steps
        );
    }
}

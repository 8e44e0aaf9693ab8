//! Residual networks: <https://arxiv.org/abs/1512.03385>.

use super::{Conv, Layer, Op, batch_norm, linear, max_pool, relu, unnamed};

/// The two kinds of residual block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3, 1x1 with four times the channels.
    Bottleneck,
}

const EPSILON: f64 = 1e-5;

pub(super) fn layers(depths: [usize; 4], block: Block, classes: usize) -> Vec<Layer> {
    let mut layers = normed(Conv::square(64, 7).stride(2).padding(3), "conv1", "bn1");
    layers.extend([relu(), max_pool(1, false)]);
    let mut channels = 64;
    for (stage, depth) in depths.into_iter().enumerate() {
        let width = 64 << stage;
        for index in 0..depth {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let name = format!("layer{}.{index}", stage + 1);
            layers.extend([residual(&name, block, width, stride, &mut channels), relu()]);
        }
    }
    layers.extend([unnamed(Op::GlobalAvgPool {}), linear("fc", classes)]);
    layers
}

/// One block on `channels` channels, which become its own.
fn residual(name: &str, block: Block, width: usize, stride: usize, channels: &mut usize) -> Layer {
    let outputs = if block == Block::Bottleneck { 4 * width } else { width };
    let spread = Conv::square(width, 3).padding(1);
    let convs = match block {
        Block::Basic => vec![spread.stride(stride), spread],
        Block::Bottleneck => vec![Conv::square(width, 1), spread.stride(stride), Conv::square(outputs, 1)],
    };
    let mut layers = Vec::new();
    for (index, conv) in (1..).zip(convs) {
        if index > 1 {
            layers.push(relu());
        }
        layers.extend(normed(conv, &format!("{name}.conv{index}"), &format!("{name}.bn{index}")));
    }
    let mut shortcut = Vec::new();
    if stride != 1 || *channels != outputs {
        let conv = Conv::square(outputs, 1).stride(stride);
        shortcut = normed(conv, &format!("{name}.downsample.0"), &format!("{name}.downsample.1"));
    }
    *channels = outputs;
    unnamed(Op::Residual { layers, shortcut })
}

fn normed(conv: Conv, name: &str, norm: &str) -> Vec<Layer> {
    vec![conv.named(name), batch_norm(norm, EPSILON)]
}

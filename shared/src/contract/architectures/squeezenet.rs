//! SqueezeNet 1.1: <https://arxiv.org/abs/1602.07360>, in its second edition by the same authors.

use super::{Conv, Layer, Op, max_pool, parallel, relu, unnamed};

/// The place of each fire module in torchvision's `features`, and its squeezed and expanded channels; pools between.
const FIRES: [Option<(usize, usize, usize)>; 10] = [
    Some((3, 16, 64)),
    Some((4, 16, 64)),
    None,
    Some((6, 32, 128)),
    Some((7, 32, 128)),
    None,
    Some((9, 48, 192)),
    Some((10, 48, 192)),
    Some((11, 64, 256)),
    Some((12, 64, 256)),
];

pub(super) fn layers(classes: usize) -> Vec<Layer> {
    let mut layers = vec![Conv::square(64, 3).stride(2).bias().named("features.0"), relu(), max_pool(0, true)];
    for fire in FIRES {
        let Some((place, squeezed, expanded)) = fire else {
            layers.push(max_pool(0, true));
            continue;
        };
        let name = |part: &str| format!("features.{place}.{part}");
        layers.extend([Conv::square(squeezed, 1).bias().named(name("squeeze")), relu()]);
        layers.push(parallel(vec![
            vec![Conv::square(expanded, 1).bias().named(name("expand1x1")), relu()],
            vec![Conv::square(expanded, 3).padding(1).bias().named(name("expand3x3")), relu()],
        ]));
    }
    layers.push(unnamed(Op::Dropout { rate: 0.5 }));
    layers.extend([Conv::square(classes, 1).bias().named("classifier.1"), relu(), unnamed(Op::GlobalAvgPool {})]);
    layers
}

//! Inception-v3: <https://arxiv.org/abs/1512.00567>, in the form that torchvision took over from TensorFlow.

use super::{Conv, Layer, Op, PoolPadding, Size, batch_norm, linear, max_pool, parallel, relu, unnamed};

const EPSILON: f64 = 1e-3;

/// A branch that begins with the module's input.
type Branch = Vec<Layer>;

pub(super) fn layers(classes: usize) -> Vec<Layer> {
    let mut layers = chain(
        "",
        &[
            ("Conv2d_1a_3x3", Conv::square(32, 3).stride(2)),
            ("Conv2d_2a_3x3", Conv::square(32, 3)),
            ("Conv2d_2b_3x3", Conv::square(64, 3).padding(1)),
        ],
    );
    layers.push(max_pool(0, false));
    layers.extend(chain("", &[("Conv2d_3b_1x1", Conv::square(80, 1)), ("Conv2d_4a_3x3", Conv::square(192, 3))]));
    layers.push(max_pool(0, false));
    layers.extend([("Mixed_5b.", 32), ("Mixed_5c.", 64), ("Mixed_5d.", 64)].map(|(name, pool)| module_a(name, pool)));
    layers.push(module_b("Mixed_6a."));
    let sevens = [("Mixed_6b.", 128), ("Mixed_6c.", 160), ("Mixed_6d.", 160), ("Mixed_6e.", 192)];
    layers.extend(sevens.map(|(name, width)| module_c(name, width)));
    layers.push(module_d("Mixed_7a."));
    layers.extend(["Mixed_7b.", "Mixed_7c."].map(module_e));
    layers.extend([unnamed(Op::GlobalAvgPool {}), unnamed(Op::Dropout { rate: 0.5 }), linear("fc", classes)]);
    layers
}

/// 5x5 and double 3x3 branches; `pool` channels behind the mean.
fn module_a(module: &str, pool: usize) -> Layer {
    let three = Conv::square(96, 3).padding(1);
    parallel(vec![
        chain(module, &[("branch1x1", Conv::square(64, 1))]),
        chain(module, &[("branch5x5_1", Conv::square(48, 1)), ("branch5x5_2", Conv::square(64, 5).padding(2))]),
        chain(module, &[("branch3x3dbl_1", Conv::square(64, 1)), ("branch3x3dbl_2", three), ("branch3x3dbl_3", three)]),
        pooled(module, pool),
    ])
}

/// Half the height and width.
fn module_b(module: &str) -> Layer {
    parallel(vec![
        chain(module, &[("branch3x3", Conv::square(384, 3).stride(2))]),
        chain(
            module,
            &[
                ("branch3x3dbl_1", Conv::square(64, 1)),
                ("branch3x3dbl_2", Conv::square(96, 3).padding(1)),
                ("branch3x3dbl_3", Conv::square(96, 3).stride(2)),
            ],
        ),
        vec![max_pool(0, false)],
    ])
}

/// 7x7 convolutions as pairs of a row and a column, `width` channels inside.
fn module_c(module: &str, width: usize) -> Layer {
    parallel(vec![
        chain(module, &[("branch1x1", Conv::square(192, 1))]),
        chain(
            module,
            &[("branch7x7_1", Conv::square(width, 1)), ("branch7x7_2", row(width, 7)), ("branch7x7_3", column(192, 7))],
        ),
        chain(
            module,
            &[
                ("branch7x7dbl_1", Conv::square(width, 1)),
                ("branch7x7dbl_2", column(width, 7)),
                ("branch7x7dbl_3", row(width, 7)),
                ("branch7x7dbl_4", column(width, 7)),
                ("branch7x7dbl_5", row(192, 7)),
            ],
        ),
        pooled(module, 192),
    ])
}

/// Half the height and width, once more.
fn module_d(module: &str) -> Layer {
    parallel(vec![
        chain(module, &[("branch3x3_1", Conv::square(192, 1)), ("branch3x3_2", Conv::square(320, 3).stride(2))]),
        chain(
            module,
            &[
                ("branch7x7x3_1", Conv::square(192, 1)),
                ("branch7x7x3_2", row(192, 7)),
                ("branch7x7x3_3", column(192, 7)),
                ("branch7x7x3_4", Conv::square(192, 3).stride(2)),
            ],
        ),
        vec![max_pool(0, false)],
    ])
}

/// Rows and columns side by side.
fn module_e(module: &str) -> Layer {
    let split =
        |a: &str, b: &str| parallel(vec![chain(module, &[(a, row(384, 3))]), chain(module, &[(b, column(384, 3))])]);
    let mut three = chain(module, &[("branch3x3_1", Conv::square(384, 1))]);
    three.push(split("branch3x3_2a", "branch3x3_2b"));
    let double = [("branch3x3dbl_1", Conv::square(448, 1)), ("branch3x3dbl_2", Conv::square(384, 3).padding(1))];
    let mut double = chain(module, &double);
    double.push(split("branch3x3dbl_3a", "branch3x3dbl_3b"));
    parallel(vec![chain(module, &[("branch1x1", Conv::square(320, 1))]), three, double, pooled(module, 192)])
}

/// Convolutions one after the other, each with its norm and a relu.
fn chain(module: &str, convs: &[(&str, Conv)]) -> Branch {
    let one = |(name, conv): &(&str, Conv)| {
        let bn = batch_norm(format!("{module}{name}.bn"), EPSILON);
        [conv.named(format!("{module}{name}.conv")), bn, relu()]
    };
    convs.iter().flat_map(one).collect()
}

/// The mean of 3x3, then a 1x1 convolution.
fn pooled(module: &str, filters: usize) -> Branch {
    let (kernel, stride, padding) = (Size::Square(3), Some(Size::Square(1)), PoolPadding(Size::Square(1)));
    let mut branch = vec![unnamed(Op::AvgPool { kernel, stride, padding, count_padding: true })];
    branch.extend(chain(module, &[("branch_pool", Conv::square(filters, 1))]));
    branch
}

fn row(filters: usize, length: usize) -> Conv {
    Conv { kernel: [1, length], padding: [0, length / 2], ..Conv::square(filters, 1) }
}

fn column(filters: usize, length: usize) -> Conv {
    Conv { kernel: [length, 1], padding: [length / 2, 0], ..Conv::square(filters, 1) }
}

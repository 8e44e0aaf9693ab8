//! Networks that go by a name, as lists of layers with torchvision's tensor names.
//!
//! Pure data. A name is resolved once, when a model is pushed: what lies in the store are the layers, so
//! no worker knows these names.

use std::fmt;

use super::network::{Layer, Network, Op, Padding, PoolPadding, Size};

mod inception;
mod resnet;
mod squeezenet;

/// A network that is known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// SqueezeNet 1.1 (Iandola et al. 2016).
    SqueezeNet11,
    /// ResNet-18 (He et al. 2015).
    ResNet18,
    /// ResNet-34.
    ResNet34,
    /// ResNet-50, with the stride in the 3x3 convolution ("v1.5"), as torchvision has it.
    ResNet50,
    /// Inception-v3 (Szegedy et al. 2015) without the auxiliary head, and without `transform_input`.
    InceptionV3,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::SqueezeNet11, Self::ResNet18, Self::ResNet34, Self::ResNet50, Self::InceptionV3];

    /// Its name, which is torchvision's.
    pub fn name(self) -> &'static str {
        match self {
            Self::SqueezeNet11 => "squeezenet1_1",
            Self::ResNet18 => "resnet18",
            Self::ResNet34 => "resnet34",
            Self::ResNet50 => "resnet50",
            Self::InceptionV3 => "inception_v3",
        }
    }

    /// The architecture of that name; case and the difference between `_`, `-` and `.` do not matter.
    pub fn find(name: &str) -> Option<Self> {
        let plain = |name: &str| name.to_ascii_lowercase().replace(['_', '-', '.'], "");
        Self::ALL.into_iter().find(|architecture| plain(architecture.name()) == plain(name))
    }

    /// Height and width of the pictures it was made for.
    pub fn side(self) -> usize {
        if self == Self::InceptionV3 { 299 } else { 224 }
    }

    /// The tensor whose first dimension is the number of classes.
    pub fn head(self) -> &'static str {
        if self == Self::SqueezeNet11 { "classifier.1.weight" } else { "fc.weight" }
    }

    /// Whether a file of its weights may hold the tensor `name` though the network computes nothing with it.
    pub fn ignores(self, name: &str) -> bool {
        self == Self::InceptionV3 && name.starts_with("AuxLogits.")
    }

    /// Its layers, with `classes` outputs, for pictures of three channels.
    pub fn network(self, classes: usize) -> Network {
        let layers = match self {
            Self::SqueezeNet11 => squeezenet::layers(classes),
            Self::ResNet18 => resnet::layers([2, 2, 2, 2], resnet::Block::Basic, classes),
            Self::ResNet34 => resnet::layers([3, 4, 6, 3], resnet::Block::Basic, classes),
            Self::ResNet50 => resnet::layers([3, 4, 6, 3], resnet::Block::Bottleneck, classes),
            Self::InceptionV3 => inception::layers(classes),
        };
        Network { layers }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A convolution's numbers: everything but its name.
#[derive(Clone, Copy)]
struct Conv {
    filters: usize,
    kernel: [usize; 2],
    stride: usize,
    padding: [usize; 2],
    bias: bool,
}

impl Conv {
    /// A square kernel, stride 1, no padding, no bias.
    fn square(filters: usize, kernel: usize) -> Self {
        Self { filters, kernel: [kernel; 2], stride: 1, padding: [0, 0], bias: false }
    }

    fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    fn padding(self, padding: usize) -> Self {
        Self { padding: [padding; 2], ..self }
    }

    fn bias(self) -> Self {
        Self { bias: true, ..self }
    }

    fn named(self, name: impl Into<String>) -> Layer {
        let op = Op::Conv {
            filters: self.filters,
            kernel: Size::Pair(self.kernel),
            stride: Size::Square(self.stride),
            padding: Padding::Fixed(Size::Pair(self.padding)),
            dilation: Size::Square(1),
            groups: 1,
            bias: self.bias,
        };
        named(name, op)
    }
}

fn named(name: impl Into<String>, op: Op) -> Layer {
    Layer { name: Some(name.into()), op }
}

fn unnamed(op: Op) -> Layer {
    Layer { name: None, op }
}

fn batch_norm(name: impl Into<String>, epsilon: f64) -> Layer {
    named(name, Op::BatchNorm { momentum: 0.1, epsilon })
}

fn relu() -> Layer {
    unnamed(Op::Relu {})
}

/// A window of 3 with a step of 2.
fn max_pool(padding: usize, ceil: bool) -> Layer {
    let (kernel, stride) = (Size::Square(3), Some(Size::Square(2)));
    unnamed(Op::MaxPool { kernel, stride, padding: PoolPadding(Size::Square(padding)), ceil })
}

fn parallel(branches: Vec<Vec<Layer>>) -> Layer {
    unnamed(Op::Parallel { branches })
}

fn linear(name: &str, units: usize) -> Layer {
    named(name, Op::Linear { units, bias: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_have_their_published_sizes() {
        // Parameters as torchvision counts them, Inception's without its auxiliary head.
        let expected = [1_235_496, 11_689_512, 21_797_672, 25_557_032, 23_834_568];
        for (architecture, expected) in Architecture::ALL.into_iter().zip(expected) {
            let network = architecture.network(1000);
            let input = [3, architecture.side(), architecture.side()];
            network.check(&input, 1000).expect("it fits its input");
            let parameters = network.parameters(&input).expect("parameters");
            let count: usize = parameters
                .iter()
                .filter(|parameter| parameter.init.is_trained())
                .map(|parameter| parameter.shape.iter().product::<usize>())
                .sum();
            assert_eq!(count, expected, "{architecture}");
            let head = parameters.iter().find(|p| p.name == architecture.head()).expect("a head");
            assert_eq!(head.shape[0], 1000);
            let text = serde_json::to_string(&network).expect("JSON");
            assert_eq!(serde_json::from_str::<Network>(&text).expect("a network"), network, "{architecture}");
        }
    }

    #[test]
    fn names_are_found_however_they_are_spelt() {
        assert_eq!(Architecture::find("SqueezeNet1.1"), Some(Architecture::SqueezeNet11));
        assert_eq!(Architecture::find("ResNet-50"), Some(Architecture::ResNet50));
        assert_eq!(Architecture::find("resnet51"), None);
    }
}

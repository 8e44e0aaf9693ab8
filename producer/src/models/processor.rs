//! What Hugging Face's image processors do where a file says nothing: the defaults of their classes (transformers 5.24), of those
//! that are for classification.

use serde_json::{Map, Value};
use shared::contract::Filter::{self, Bicubic, Bilinear};

/// A class of processors.
#[derive(Debug)]
pub(super) struct Processor {
    /// Before `ImageProcessor` or `FeatureExtractor`.
    name: &'static str,
    /// Whether a lone number is both edges, not the shorter one.
    pub(super) square: bool,
    pub(super) filter: Filter,
    pub(super) crop: Cropping,
}

/// What a class cuts out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cropping {
    /// Nothing, unless it is told to.
    Off,
    /// A square of this edge.
    Square(u32),
    /// A share of a larger picture.
    Share,
}

use Cropping::{Off, Share, Square};

const ALL: [Processor; 19] = [
    of("Beit", true, Bicubic, Off),
    of("Bit", false, Bicubic, Square(224)),
    of("CLIP", false, Bicubic, Square(224)),
    of("ConvNext", false, Bicubic, Share),
    of("DPT", true, Bicubic, Off),
    of("DeiT", true, Bicubic, Square(224)),
    of("EfficientNet", true, Bicubic, Off),
    of("Flava", true, Bicubic, Square(224)),
    of("ImageGPT", true, Bilinear, Off),
    of("Levit", false, Bicubic, Square(224)),
    of("MobileNetV1", false, Bilinear, Square(224)),
    of("MobileNetV2", false, Bilinear, Square(224)),
    of("MobileViT", false, Bicubic, Square(256)),
    of("PoolFormer", false, Bicubic, Share),
    of("Pvt", true, Bicubic, Off),
    of("Segformer", true, Bilinear, Off),
    of("Siglip", false, Bicubic, Off),
    of("TextNet", false, Bilinear, Off),
    of("ViT", true, Bilinear, Off),
];

const fn of(name: &'static str, square: bool, filter: Filter, crop: Cropping) -> Processor {
    Processor { name, square, filter, crop }
}

/// The class that a file names, as it stands there.
pub(super) fn named(file: &Map<String, Value>) -> Option<&str> {
    ["image_processor_type", "feature_extractor_type"].iter().find_map(|key| file.get(*key)?.as_str())
}

impl Processor {
    /// The class of this name.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        let stem = name.split_once("ImageProcessor").or_else(|| name.split_once("FeatureExtractor"))?.0;
        ALL.iter().find(|processor| processor.name == stem)
    }

    /// Whether it is the class of this name.
    pub(super) fn is(&self, name: &str) -> bool {
        self.name == name
    }
}

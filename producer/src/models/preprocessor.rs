//! `preprocessor_config.json`, as Hugging Face's image processors write it, into the contract's preprocessing.
//!
//! A key that would change numbers and is not understood is refused by its name.

use serde::Deserialize;
use serde_json::{Map, Value};
use shared::contract::{ChannelOrder, Filter, Preprocessing, Resize};
use shared::strict::{self, Problem};

use super::processor::{self, Cropping, Processor};

/// What a `preprocessor_config.json` says.
#[derive(Debug)]
pub(super) struct Preprocessor {
    pub(super) preprocessing: Preprocessing,
    /// Height and width of what comes out, and the key that says so; the network's input without.
    pub(super) output: Option<([u32; 2], &'static str)>,
}

/// What a file for a network of torchvision's holds, for messages.
pub(super) const EXAMPLE: &str = r#"{"size": {"shortest_edge": 256}, "crop_size": 224, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}"#;

/// Keys that change no number: pictures become RGB here in any case.
const HARMLESS: [&str; 13] = [
    "_processor_class",
    "_valid_processor_keys",
    "auto_map",
    "data_format",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "feature_extractor_type",
    "image_processor_type",
    "input_data_format",
    "processor_class",
    "return_tensors",
    "transformers_version",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    do_resize: Option<bool>,
    size: Option<Size>,
    default_to_square: Option<bool>,
    resample: Option<u32>,
    do_center_crop: Option<bool>,
    crop_size: Option<Crop>,
    crop_pct: Option<f64>,
    do_flip_channel_order: Option<bool>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<Vec<f64>>,
    image_std: Option<Vec<f64>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged, deny_unknown_fields, expecting = "a number, {shortest_edge} or {height, width}")]
enum Size {
    Number(u32),
    Shortest { shortest_edge: u32 },
    Exact { height: u32, width: u32 },
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged, deny_unknown_fields, expecting = "a number or {height, width}")]
enum Crop {
    Number(u32),
    Exact { height: u32, width: u32 },
}

/// Reads the document, for pictures of `channels` channels.
pub(super) fn read(text: &[u8], channels: usize) -> Result<Preprocessor, Problem> {
    let mut map: Map<String, Value> = strict::json(text)?;
    // What Hugging Face's own library wrote names its processor, which cuts parts of pixels off.
    let cuts =
        ["image_processor_type", "feature_extractor_type", "processor_class"].iter().any(|key| map.contains_key(*key));
    // These enlarge the shorter edge without a word.
    let enlarges = ["image_processor_type", "feature_extractor_type"].iter().any(|key| {
        let name = map.get(*key).and_then(Value::as_str).unwrap_or_default();
        ["ConvNext", "Levit"].iter().any(|kind| name.starts_with(kind))
    });
    let name = processor::named(&map).map(str::to_owned);
    if let Some(name) = name.as_deref().filter(|name| name.starts_with("Perceiver")) {
        let accepted = "it crops before it resizes: processors that resize first are accepted";
        return Err(Problem::new("image_processor_type", name, accepted));
    }
    let class = name.as_deref().and_then(Processor::find);
    map.retain(|key, value| !value.is_null() && !HARMLESS.contains(&key.as_str()));
    // Whatever it is, it is not done.
    map.retain(|key, value| !(key.starts_with("do_") && *value == Value::Bool(false)) || is_known(key));
    map.retain(|key, value| key != "rescale_offset" || *value != Value::Bool(false));
    // EfficientNet divides by the deviations once more, unless it is told not to.
    let twice = class.is_some_and(|class| class.is("EfficientNet"))
        && map.remove("include_top").is_none_or(|value| value != Value::Bool(false));
    let mut raw: Raw = strict::from_value(&Value::Object(map))?;
    if let Some(class) = class {
        complete(&mut raw, class);
    }
    if enlarges && raw.crop_pct.is_none() {
        raw.crop_pct = Some(224.0 / 256.0);
    }
    let (resize, output) = geometry(&raw)?;
    let resize = resize.map(|resize| match resize {
        Resize::ShortestEdge(edge) if cuts => Resize::ShortestEdgeCut(edge),
        other => other,
    });
    let (mean, mut std) = normalisation(&raw, channels)?;
    if twice {
        std.iter_mut().for_each(|std| *std *= *std);
    }
    let rescale = match (raw.do_rescale, raw.rescale_factor) {
        (Some(false), _) => 1.0,
        (_, None) => 1.0 / 255.0,
        (_, Some(factor)) if factor.is_finite() && factor > 0.0 => factor,
        (_, Some(factor)) => return Err(Problem::new("rescale_factor", factor, "a number above 0 is accepted")),
    };
    let filter = match raw.resample {
        Some(0) => Filter::Nearest,
        Some(1) => Filter::Lanczos,
        None => class.map_or(Filter::Bilinear, |class| class.filter),
        Some(2) => Filter::Bilinear,
        Some(3) => Filter::Bicubic,
        Some(4) => Filter::Box,
        Some(5) => Filter::Hamming,
        Some(other) => {
            let accepted = "0 (nearest), 1 (Lanczos), 2 (bilinear), 3 (bicubic), 4 (box) and 5 (Hamming) are accepted";
            return Err(Problem::new("resample", other, accepted));
        }
    };
    let order = match raw.do_flip_channel_order {
        Some(true) => ChannelOrder::Bgr,
        _ => ChannelOrder::Rgb,
    };
    let standard = Preprocessing::standard(mean, std);
    Ok(Preprocessor { preprocessing: Preprocessing { resize, filter, order, rescale, ..standard }, output })
}

/// Fills in what a class of processors does where nothing is said.
fn complete(raw: &mut Raw, class: &Processor) {
    raw.default_to_square.get_or_insert(class.square);
    match class.crop {
        Cropping::Off => {
            raw.do_center_crop.get_or_insert(false);
        }
        Cropping::Square(edge) if raw.do_center_crop != Some(false) => {
            raw.crop_size.get_or_insert(Crop::Number(edge));
        }
        Cropping::Square(_) | Cropping::Share => {}
    }
    if class.is("MobileViT") {
        raw.do_normalize.get_or_insert(false);
        raw.do_flip_channel_order.get_or_insert(true);
    }
}

fn is_known(key: &str) -> bool {
    ["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_flip_channel_order"].contains(&key)
}

type Geometry = (Option<Resize>, Option<([u32; 2], &'static str)>);

fn geometry(raw: &Raw) -> Result<Geometry, Problem> {
    if raw.do_resize == Some(false) {
        return Err(Problem::new("do_resize", false, "pictures come in any size; true is accepted"));
    }
    let crop = match (raw.do_center_crop, raw.crop_size) {
        (Some(false), _) | (None, None) => None,
        (_, Some(Crop::Number(side))) => Some([side, side]),
        (_, Some(Crop::Exact { height, width })) => Some([height, width]),
        (Some(true), None) => {
            return Err(Problem { at: "crop_size".into(), what: "is missing, and `do_center_crop` is true".into() });
        }
    };
    if let Some(share) = raw.crop_pct {
        return by_share(raw.size, share, crop);
    }
    // Where no class is named: a lone number was the shorter edge for most that crop, and a square for those that do not.
    let square = raw.default_to_square.unwrap_or(crop.is_none());
    let resize = raw.size.map(|size| match size {
        Size::Number(side) if square => Resize::Exact([side, side]),
        Size::Number(edge) | Size::Shortest { shortest_edge: edge } => Resize::ShortestEdge(edge),
        Size::Exact { height, width } => Resize::Exact([height, width]),
    });
    let (least, key) = match resize {
        Some(Resize::ShortestEdge(edge) | Resize::ShortestEdgeCut(edge)) => ([edge, edge], "size.shortest_edge"),
        Some(Resize::Exact(size) | Resize::Covering(size) | Resize::Inside(size)) => (size, "size"),
        None => ([u32::MAX; 2], "size"),
    };
    let accepted = |edges: [u32; 2], key| {
        let fits = edges.iter().all(|edge| (1..=MOST_EDGE).contains(edge));
        if fits {
            Ok(())
        } else {
            Err(Problem::new(key, format!("{edges:?}"), format!("1 to {MOST_EDGE} is accepted")))
        }
    };
    if resize.is_some() {
        accepted(least, key)?;
    }
    match (resize, crop) {
        (Some(Resize::ShortestEdge(edge)), None) => {
            let advice = "without `crop_size` every picture gets another size: give one, or {height, width}";
            Err(Problem::new("size.shortest_edge", edge, advice))
        }
        (None, Some(crop)) => {
            let advice = "pictures come in any size: give the `size` before the crop";
            Err(Problem::new("crop_size", format!("{crop:?} without `size`"), advice))
        }
        (_, Some(crop)) if crop[0] > least[0] || crop[1] > least[1] => {
            Err(Problem::new("crop_size", format!("{crop:?}"), format!("at most `{key}`, {least:?}, is accepted")))
        }
        (_, Some(crop)) => accepted(crop, "crop_size").map(|()| (resize, Some((crop, "crop_size")))),
        (Some(_), None) => Ok((resize, Some((least, "size")))),
        (None, None) => Ok((None, None)),
    }
}

/// As ConvNeXt's and PoolFormer's processors crop: a shorter edge that is larger by a share, except that large pictures are
/// squeezed whole by the first.
fn by_share(size: Option<Size>, share: f64, crop: Option<[u32; 2]>) -> Result<Geometry, Problem> {
    let edge = match size {
        None => 224,
        Some(Size::Number(edge) | Size::Shortest { shortest_edge: edge }) => edge,
        Some(Size::Exact { height, width }) => {
            let accepted = "{shortest_edge} is accepted beside `crop_pct`";
            return Err(Problem::new("size", format!("[{height}, {width}]"), accepted));
        }
    };
    if crop.is_none() && edge >= 384 {
        return Ok((Some(Resize::Exact([edge, edge])), Some(([edge, edge], "size.shortest_edge"))));
    }
    let (output, scaled) = (crop.unwrap_or([edge, edge]), (f64::from(edge) / share).floor());
    let least = f64::from(output[0].max(output[1]).max(1));
    if !(least..=f64::from(MOST_EDGE)).contains(&scaled) {
        let accepted =
            format!("above 0 to 1 is accepted, so that {output:?} can be cut out of at most {MOST_EDGE} pixels");
        return Err(Problem::new("crop_pct", share, accepted));
    }
    let key = if crop.is_some() { "crop_size" } else { "size.shortest_edge" };
    Ok((Some(Resize::ShortestEdge(scaled as u32)), Some((output, key))))
}

/// Longer edges are refused: the worker refuses them, too.
const MOST_EDGE: u32 = 1 << 14;

fn normalisation(raw: &Raw, channels: usize) -> Result<(Vec<f64>, Vec<f64>), Problem> {
    if raw.do_normalize == Some(false) {
        return Ok((vec![0.0; channels], vec![1.0; channels]));
    }
    let numbers = |key: &str, numbers: &Option<Vec<f64>>, above: f64| match numbers {
        Some(numbers) if numbers.len() == channels && numbers.iter().all(|n| n.is_finite() && *n > above) => {
            Ok(numbers.clone())
        }
        Some(numbers) => {
            let accepted = if above == 0.0 { "numbers above 0 are accepted" } else { "numbers are accepted" };
            Err(Problem::new(key, format!("{numbers:?}"), format!("{channels} {accepted}, one a channel")))
        }
        None => Err(Problem { at: key.into(), what: "is missing: give it, or `\"do_normalize\": false`".into() }),
    };
    Ok((numbers("image_mean", &raw.image_mean, f64::MIN)?, numbers("image_std", &raw.image_std, 0.0)?))
}

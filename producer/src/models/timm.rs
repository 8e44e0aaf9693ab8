//! What timm writes of a network's pictures: `pretrained_cfg` in config.json, into the contract's preprocessing, as timm's
//! `create_transform` makes its transform for evaluation of it.

use serde::Deserialize;
use serde_json::Value;
use shared::contract::{Crop, Filter, Preprocessing, Resize};
use shared::strict::{self, Problem};

use super::preprocessor::Preprocessor;

/// The keys that say what a picture becomes; there are many others.
#[derive(Deserialize)]
struct Raw {
    input_size: Option<[u32; 3]>,
    interpolation: Option<String>,
    crop_pct: Option<f64>,
    crop_mode: Option<String>,
    mean: Option<Vec<f64>>,
    std: Option<Vec<f64>>,
}

/// What timm takes where nothing stands.
const CROP_PCT: f64 = 0.875;
const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const STD: [f64; 3] = [0.229, 0.224, 0.225];

/// Reads `pretrained_cfg`, for pictures of `channels` channels.
pub(super) fn read(config: &Value, channels: usize) -> Result<Preprocessor, Problem> {
    inside(config, channels).map_err(|problem| problem.inside("pretrained_cfg"))
}

fn inside(config: &Value, channels: usize) -> Result<Preprocessor, Problem> {
    let raw: Raw = strict::from_value(config)?;
    let [_, height, width] = raw.input_size.unwrap_or([channels as u32, 224, 224]);
    let input = [height, width];
    if raw.input_size.is_some_and(|size| size[0] as usize != channels) {
        let accepted = format!("{channels} channels are accepted, as the network has");
        return Err(Problem::new("input_size", format!("{:?}", raw.input_size.unwrap_or_default()), accepted));
    }
    let share = raw.crop_pct.unwrap_or(CROP_PCT);
    let scaled = input.map(|edge| (f64::from(edge) / share).floor());
    if !share.is_finite() || share <= 0.0 || scaled.iter().any(|edge| !(1.0..=f64::from(1 << 14)).contains(edge)) {
        let accepted = "a number above 0 with which pictures have edges of 1 to 16384 pixels is accepted";
        return Err(Problem::new("crop_pct", share, accepted));
    }
    let scaled = scaled.map(|edge| edge as u32);
    let (mean, std) = (raw.mean.unwrap_or(MEAN.to_vec()), raw.std.unwrap_or(STD.to_vec()));
    let mut border = Vec::new();
    let resize = match raw.crop_mode.as_deref() {
        None | Some("center") if scaled[0] == scaled[1] => Resize::ShortestEdgeCut(scaled[0]),
        None | Some("center") => Resize::Covering(scaled),
        Some("squash") => Resize::Exact(scaled),
        Some("border") => {
            // A half to the even number, as Python rounds.
            border = mean.iter().map(|mean| (mean * 255.0).round_ties_even().clamp(0.0, 255.0) as u8).collect();
            Resize::Inside(scaled)
        }
        Some(other) => {
            return Err(Problem::new("crop_mode", format!("{other:?}"), "center, squash and border are accepted"));
        }
    };
    let filter = match raw.interpolation.as_deref() {
        Some("nearest") => Filter::Nearest,
        Some("bilinear") => Filter::Bilinear,
        None | Some("bicubic") => Filter::Bicubic,
        Some("lanczos") => Filter::Lanczos,
        Some("box") => Filter::Box,
        Some("hamming") => Filter::Hamming,
        Some(other) => {
            let accepted = "nearest, bilinear, bicubic, lanczos, box and hamming are accepted";
            return Err(Problem::new("interpolation", format!("{other:?}"), accepted));
        }
    };
    let standard = Preprocessing::standard(mean, std);
    let preprocessing = Preprocessing { resize: Some(resize), filter, crop: Crop::Even, border, ..standard };
    preprocessing.check(channels)?;
    Ok(Preprocessor { preprocessing, output: Some((input, "pretrained_cfg.input_size")) })
}

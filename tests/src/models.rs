//! A model made on the spot, as a colleague would hand it over: it tells red pictures from blue ones.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

/// Writes the folder that `gannet model push` takes. The two labels are those of a red picture and of a blue one.
///
/// # Errors
/// The disk refuses.
pub fn write_model(dir: &Path, labels: [&str; 2]) -> Result<()> {
    std::fs::create_dir_all(dir).context("make the model's folder")?;
    let config = json!({"input": [3, 1, 1], "layers": [
        {"type": "flatten"}, {"type": "linear", "units": 2, "bias": false}
    ]});
    let preprocessor = json!({
        "do_resize": true, "size": {"height": 1, "width": 1}, "resample": 2, "do_rescale": true,
        "rescale_factor": 1.0 / 255.0, "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]
    });
    for (name, content) in [
        ("config.json", config.to_string().into_bytes()),
        ("preprocessor_config.json", preprocessor.to_string().into_bytes()),
        ("labels.txt", labels.join("\n").into_bytes()),
        ("model.safetensors", weights()),
    ] {
        std::fs::write(dir.join(name), content).with_context(|| format!("write {name}"))?;
    }
    Ok(())
}

/// A safetensors file by hand: the length of its header, the header, the numbers.
fn weights() -> Vec<u8> {
    let header = json!({"1.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend([1.0f32, 0.0, -1.0, -1.0, 0.0, 1.0].iter().flat_map(|weight| weight.to_le_bytes()));
    file
}

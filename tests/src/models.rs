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

/// Writes a model for `gannet model push` that calls every bright picture `more`, by a weight of 1.001 that is 1 in bf16: then
/// it is `less`, the first of two equals.
pub fn write_fine_model(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).context("make the model's folder")?;
    let config = json!({"input": [3, 8, 8], "layers": [
        {"type": "conv", "filters": 16, "kernel": 1, "bias": false},
        {"type": "conv", "filters": 2, "kernel": 1, "bias": false},
        {"type": "global_avg_pool"}
    ]});
    let preprocessor = json!({"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]});
    let mut first = vec![0.0; 16 * 3];
    first[0] = 1.0;
    let mut second = vec![0.0; 2 * 16];
    (second[0], second[16]) = (1.0, 1.001);
    let tensors = [("0.weight", vec![16, 3, 1, 1], first), ("1.weight", vec![2, 16, 1, 1], second)];
    for (name, content) in [
        ("config.json", config.to_string().into_bytes()),
        ("preprocessor_config.json", preprocessor.to_string().into_bytes()),
        ("labels.txt", b"less\nmore\n".to_vec()),
        ("model.safetensors", safetensors(&tensors)),
    ] {
        std::fs::write(dir.join(name), content).with_context(|| format!("write {name}"))?;
    }
    Ok(())
}

fn weights() -> Vec<u8> {
    safetensors(&[("1.weight", vec![2, 3], vec![1.0, 0.0, -1.0, -1.0, 0.0, 1.0])])
}

/// A safetensors file by hand: the length of its header, the header, the numbers.
fn safetensors(tensors: &[(&str, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    let (mut header, mut numbers) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let begin = numbers.len();
        numbers.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        header.insert((*name).into(), json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, numbers.len()]}));
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(numbers);
    file
}

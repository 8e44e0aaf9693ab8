//! A network that was trained elsewhere: pushed as an ONNX file, or refused before anything is sent.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use engine::{Mode, Net, Path as Simd, Purpose};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tests::{Folder, LIMIT, Process, json_lines};

const EDGE: u32 = 64;
const MEAN: f32 = 0.5;
const STD: f32 = 0.25;

/// A network among those that the importer is tested with.
fn network(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../onnx/tests/golden").join(name)
}

/// The folder of a model whose network is `file`, with what it keeps in another file.
fn write_onnx_model(dir: &Path, file: &[u8]) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let preprocessor = json!({
        "do_resize": true, "size": {"height": EDGE, "width": EDGE}, "do_rescale": true, "rescale_factor": 1.0 / 255.0,
        "do_normalize": true, "image_mean": [MEAN, MEAN, MEAN], "image_std": [STD, STD, STD]
    });
    std::fs::write(dir.join("model.onnx"), file)?;
    std::fs::copy(network("resnet-18.data"), dir.join("resnet-18.data"))?;
    std::fs::write(dir.join("preprocessor_config.json"), preprocessor.to_string())?;
    let labels: Vec<String> = (0..10).map(|number| format!("label {number}")).collect();
    Ok(std::fs::write(dir.join("labels.txt"), labels.join("\n"))?)
}

fn picture() -> RgbImage {
    RgbImage::from_fn(EDGE, EDGE, |x, y| Rgb([(x * 4) as u8, (y * 4) as u8, (x * y % 256) as u8]))
}

/// What the network makes of the picture, computed here.
fn logits() -> Result<Vec<f32>> {
    let network = onnx::load(&network("resnet-18.onnx"), &onnx::Options::default())?;
    let mut net = Net::new(&network.graph, 1, Purpose::Infer, Simd::best())?;
    network.fill(&mut net)?;
    let picture = picture();
    let channel =
        |channel: usize| picture.pixels().map(move |pixel| (f32::from(pixel.0[channel]) / 255.0 - MEAN) / STD);
    net.set_input(0, &(0..3).flat_map(channel).collect::<Vec<f32>>());
    net.forward(1, &Mode::Infer);
    Ok(net.outputs(1))
}

async fn gannet(folder: &Folder, args: &[&str]) -> Result<String> {
    Process::start("gannet", "gannet", args, &[], folder.path())?.succeed(LIMIT).await
}

#[tokio::test]
async fn a_network_in_two_files_gives_its_own_scores() {
    Folder::run(async |folder| {
        write_onnx_model(&folder.path().join("elsewhere"), &std::fs::read(network("resnet-18.onnx"))?)?;
        picture().save(folder.path().join("one.png"))?;
        gannet(folder, &["model", "push", "elsewhere", "resnet"]).await?;
        // The store has all of it.
        std::fs::remove_dir_all(folder.path().join("elsewhere"))?;
        let classify = ["classify", "one.png", "--model", "resnet", "--scores", "raw", "--top-k", "10"];
        let lines = json_lines(&gannet(folder, &classify).await?)?;
        let predictions = lines[0]["predictions"].as_array().context("predictions")?;
        let logits = logits()?;
        ensure!(predictions.len() == logits.len(), "{predictions:?}");
        let largest = logits.iter().fold(0.0, |most: f32, logit| most.max(logit.abs()));
        for prediction in predictions {
            let index = prediction["index"].as_u64().context("an index")? as usize;
            let score = prediction["score"].as_f64().context("a score")?;
            ensure!(prediction["label"] == format!("label {index}"), "{prediction}");
            ensure!((score - f64::from(logits[index])).abs() < 1e-5 * f64::from(largest), "{prediction}: {logits:?}");
        }
        let score = |prediction: &Value| prediction["score"].as_f64();
        ensure!(predictions.is_sorted_by(|a, b| score(a) >= score(b)), "the best comes first: {predictions:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_computed_is_refused_by_node_and_operator() {
    Folder::run(async |folder| {
        let mut file = std::fs::read(network("resnet-18.onnx"))?;
        let at = file.windows(4).rposition(|bytes| bytes == b"Relu").context("an operator")?;
        file[at..at + 4].copy_from_slice(b"Rolu");
        write_onnx_model(&folder.path().join("strange"), &file)?;
        let mut push = Process::start("gannet", "gannet", &["model", "push", "strange", "m"], &[], folder.path())?;
        ensure!(push.wait(LIMIT).await?.code() == Some(1), "it must be refused: {}", push.stderr());
        ensure!(["Rolu", "node_relu_10"].iter().all(|word| push.stderr().contains(word)), "{}", push.stderr());
        ensure!(!folder.path().join(".gannet/store/models").exists(), "nothing is sent");
        Ok(())
    })
    .await;
}

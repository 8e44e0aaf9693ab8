//! `gannet classify`: labels for pictures, one line each.

use std::collections::BTreeMap;
use std::ffi::OsString;

use anyhow::bail;
use clap::ValueEnum;
use shared::contract::{self, Batch, Job, Kind, MAX_MESSAGE, Model, Output, Scores, Work};
use shared::digest::Digest;
use shared::names::{JobId, Name, ObjectRef};
use shared::store::{Store, get_optional_json, layout};
use tokio::sync::Notify;

use self::agreement::Agreements;
use self::calibration::Calibration;
use self::lines::Lines;
use self::take::Picture;
use super::embedded::{Embedded, with_workers};
use super::{completions, fresh_run};
use crate::bar::Bar;
use crate::drive::{Drive, News};
use crate::images::{self, Image};
use crate::models::{self, Wanted};
use crate::runs::{Asked, RunManifest};
use crate::session::Session;
use crate::words::{count, quoted};

mod agreement;
mod calibration;
mod lines;
mod take;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gannet classify photos/ --model squeezenet\n  gannet classify 'photos/*.jpg' one.png @list.txt --model squeezenet@3f2a91c0 --top-k 1\n  find . -name '*.webp' | gannet classify - --model squeezenet > labels.jsonl\n  gannet classify photos/ --model resnet50 --precision bf16\n  gannet classify photos/ --model resnet50 --precision int8 --calibrate-on samples/\n  gannet classify photos/ --model tags --threshold 0.3\n  gannet classify photos/ --model squeezenet --output embedding > vectors.jsonl\n\nOne JSON line a picture: {\"image\", \"model\", \"predictions\": [{\"label\", \"index\", \"score\"}]}, {\"image\", \"model\", \"embedding\": [numbers]} or {\"image\", \"model\", \"error\": {\"code\", \"message\"}}; \"model\" is the digest of the version, the same in all of a run, and \"precision\" stands beside it with --precision bf16 or int8. A line of a list is a file, a folder or an s3:// prefix as it stands there, never a pattern."
)]
pub(super) struct Arguments {
    /// Files, folders, patterns of files, `@LIST` for a file of names, `-` for names on standard input, s3:// prefixes
    #[arg(required = true, add = completions::inputs())]
    inputs: Vec<OsString>,
    /// The model, as `gannet model list` shows it; NAME@DIGEST for one version, the first eight digits or more
    #[arg(long, add = completions::versions())]
    model: Wanted,
    /// Labels a picture [default: 5; with sigmoid scores all, up to 1000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    top_k: Option<u32>,
    /// Leaves out labels with a lower score, 0 to 1; any number with raw scores [default: 0.5 with sigmoid scores, else none]
    #[arg(long, allow_negative_numbers = true)]
    threshold: Option<f64>,
    /// What the network's outputs become [default: what the model says]
    #[arg(long, value_enum)]
    scores: Option<Scored>,
    /// What is told of each picture
    #[arg(long, value_enum, default_value_t = Told::Labels)]
    output: Told,
    /// Pictures a job; fewer with more than 100 labels each or embeddings, so that its result stays readable
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch_size: u32,
    /// `bf16` is faster where processors have AVX-512 BF16, `int8` where they have AVX-512 VNNI and VBMI, and both are fp32 elsewhere; two pictures of each job are
    /// computed both ways
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// With int8: pictures like those to come, of which 32 at most tell what the network's values are like; files, folders and so on. A picture's
    /// scores then depend on these and the model alone [default: the run's own]
    #[arg(long, value_name = "INPUT", add = completions::inputs())]
    calibrate_on: Vec<OsString>,
    /// With bf16 and int8: ends the run when, of at least 20 pictures, a smaller share has the same best label both ways, 0 to 1; of fewer, one more may
    /// differ
    #[arg(long, value_name = "SHARE", default_value_t = 0.98, allow_negative_numbers = true)]
    min_agreement: f64,
    /// Lines in the order of the input, not as they come
    #[arg(long)]
    ordered: bool,
    /// The run's name [default: the model's and the time]
    #[arg(long, add = completions::runs())]
    run: Option<Name>,
    #[command(flatten)]
    embedded: Embedded,
}

/// [`contract::Precision`] on a command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Precision {
    #[default]
    Fp32,
    Bf16,
    Int8,
}

impl From<Precision> for contract::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Fp32 => Self::Fp32,
            Precision::Bf16 => Self::Bf16,
            Precision::Int8 => Self::Int8,
        }
    }
}

/// What outputs become.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Scored {
    /// Probabilities that add up to 1
    Softmax,
    /// A probability for each label alone
    Sigmoid,
    /// The outputs as they are
    Raw,
}

/// What is told of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Told {
    /// Its best labels
    Labels,
    /// The numbers that the network's last layer with weights reads: its features
    Embedding,
}

impl Arguments {
    /// The batch that they ask for, without pictures.
    fn batch(&self, model: ObjectRef, manifest: &Model) -> anyhow::Result<Batch> {
        let scores = self.scores.map(|scores| match scores {
            Scored::Softmax => Scores::Softmax,
            Scored::Sigmoid => Scores::Sigmoid,
            Scored::Raw => Scores::Raw,
        });
        let output = match self.output {
            Told::Labels => Output::Labels,
            Told::Embedding => Output::Embedding,
        };
        if output == Output::Embedding {
            let given = [
                ("top-k", self.top_k.is_some()),
                ("threshold", self.threshold.is_some()),
                ("scores", scores.is_some()),
            ];
            if let Some((option, _)) = given.iter().find(|(_, is_given)| *is_given) {
                bail!("--{option} is for labels: --output embedding goes without");
            }
            if self.precision != Precision::Fp32 {
                bail!("embeddings are computed in fp32: --output embedding goes without --precision");
            }
        }
        let in_effect = scores.unwrap_or(manifest.scores);
        match self.threshold {
            Some(threshold) if in_effect == Scores::Raw && !threshold.is_finite() => {
                bail!("--threshold is {threshold}: a finite number is accepted with raw scores")
            }
            Some(threshold) if in_effect != Scores::Raw && !(0.0..=1.0).contains(&threshold) => {
                bail!("--threshold is {threshold}: 0 to 1 is accepted")
            }
            _ => {}
        }
        let all = u32::try_from(manifest.labels.len()).unwrap_or(u32::MAX).clamp(1, 1000);
        // Where a limit decides, it alone does.
        let usual = if manifest.limit(scores).is_some() { all } else { 5 };
        let top_k = self.top_k.unwrap_or(usual);
        let (threshold, precision) = (self.threshold, self.precision.into());
        let (images, calibration) = (Vec::new(), Vec::new());
        Ok(Batch { model, images, top_k, threshold, scores, output, precision, calibration })
    }
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    if !(0.0..=1.0).contains(&arguments.min_agreement) {
        bail!("--min-agreement is {}: 0 to 1 is accepted", arguments.min_agreement);
    }
    if !arguments.calibrate_on.is_empty() && arguments.precision != Precision::Int8 {
        bail!("--calibrate-on is for --precision int8: without it nothing is calibrated");
    }
    let session = Session::open().await?;
    let store = session.store.as_ref();
    // Once: whoever moves the pointer meanwhile changes nothing here, since every job names the version.
    let (model, manifest) = models::find(store, &version(store, &arguments).await?).await?;
    if manifest.picture().is_none() {
        bail!(
            "the model `{}` is for no pictures: its input is {:?}, and [1 or 3, height, width] is accepted",
            arguments.model,
            manifest.config.input
        );
    }
    let wanted = arguments.batch(model.clone(), &manifest)?;
    let found = images::find(&arguments.inputs, store, &session.places.store).await?;
    if let Some(left_out) = found.left_out() {
        eprintln!("note: {left_out}");
    }
    let images = found.images;
    let samples = calibration::find(&session, arguments.run.as_ref(), &arguments.calibrate_on).await?;
    if images.is_empty() {
        let inputs: Vec<String> = arguments.inputs.iter().map(|input| quoted(&input.to_string_lossy())).collect();
        eprintln!("no pictures in {}: nothing to label", inputs.join(", "));
        return Ok(());
    }
    let run = arguments.run.clone().unwrap_or_else(|| fresh_run(&arguments.model.name));
    let asked = Asked::Classification { model: model.clone(), images: images.len() as u64 };
    RunManifest::new(run.clone(), asked).create(store).await?;
    let (pictures, version) = (count(images.len(), "picture"), models::short(model.sha256));
    eprintln!("run {run}: {pictures}, model {}@{version} ({})", arguments.model.name, session.queue.place());
    let mut rest = String::new();
    if !session.places.is_embedded() {
        rest = format!("; the workers go on with this run, unless `gannet cancel {run}` stops them");
    }
    let agreement = Agreements::new(arguments.precision.into(), arguments.min_agreement, rest);
    let mut lines = Lines::new(arguments.ordered, images.len(), model.sha256, agreement, wanted.output);
    let labelled = label(&session, &arguments, &run, &wanted, (images, samples), &mut lines).await;
    lines.finish(labelled)
}

/// The version to label with: what the name stands for, or, where a run is taken up, the one that it began with.
async fn version(store: &dyn Store, arguments: &Arguments) -> anyhow::Result<Wanted> {
    let wanted = &arguments.model;
    let (Some(run), None) = (&arguments.run, &wanted.version) else { return Ok(wanted.clone()) };
    let begun: Option<RunManifest> = get_optional_json(store, &layout::run_manifest(run)).await?;
    let Some(Asked::Classification { model, .. }) = begun.map(|begun| begun.asked) else { return Ok(wanted.clone()) };
    if model.key != layout::model_file(&wanted.name, model.sha256, "model.json") {
        return Ok(wanted.clone());
    }
    Ok(Wanted { name: wanted.name.clone(), version: Some(model.sha256.to_string()) })
}

async fn label(
    session: &Session,
    arguments: &Arguments,
    run: &Name,
    wanted: &Batch,
    (images, samples): (Vec<Image>, Option<Vec<Image>>),
    lines: &mut Lines,
) -> anyhow::Result<()> {
    let mut pending = Vec::new();
    for taken in take::all(session, run, images).await? {
        match taken {
            Ok(picture) => pending.push(picture),
            Err((index, outcome)) => lines.put(index, &outcome)?,
        }
    }
    let calibration = match arguments.precision {
        Precision::Int8 => Calibration::of(session, run, samples, &pending).await?,
        Precision::Fp32 | Precision::Bf16 => Calibration::default(),
    };
    let wanted = &Batch { calibration: calibration.images, ..wanted.clone() };
    let job = |(number, pictures): (usize, Vec<Picture>)| {
        let indices: Vec<usize> = pictures.iter().map(|picture| picture.index).collect();
        let stamps: Vec<_> = pictures.iter().map(|picture| picture.stamp).collect();
        let images = pictures.into_iter().map(|picture| picture.image).collect();
        let batch = Batch { images, ..wanted.clone() };
        // The same pictures are the same job. Others are not, nor is a file that was changed: a run that is taken up
        // never gives them an old answer.
        let told = match calibration.stamps.as_slice() {
            [] => serde_json::to_vec(&(&batch, stamps))?,
            others => serde_json::to_vec(&(&batch, stamps, others))?,
        };
        let digest = Digest::of(&told).to_string();
        let id = JobId::new(format!("b{number:06}-{}", &digest[..12]))?;
        anyhow::Ok((indices, Job { id, run: run.clone(), work: Work::Batch(Box::new(batch)) }))
    };
    let most = Batch::most_images(wanted.output, wanted.top_k).min(arguments.batch_size as usize);
    let frame = FRAME + serde_json::to_vec(&wanted.calibration)?.len();
    let batches = cut(pending, most, frame).into_iter().enumerate().map(job);
    let batches = batches.collect::<anyhow::Result<Vec<_>>>()?;
    classify(session, &arguments.embedded, run, &batches, lines).await
}

/// What a job's message holds beside its pictures, and more: its names and keys have bounds.
const FRAME: usize = 4 * 1024;

/// Cuts the pictures into batches of at most `most`, fewer where their names are so long that a message would not hold
/// more beside what takes `frame` bytes.
fn cut(pictures: Vec<Picture>, most: usize, frame: usize) -> Vec<Vec<Picture>> {
    let mut batches: Vec<Vec<Picture>> = Vec::new();
    let mut free = 0;
    for picture in pictures {
        let size = 1 + serde_json::to_vec(&picture.image).expect("a reference is plain data").len();
        match batches.last_mut() {
            Some(batch) if batch.len() < most && size <= free => {
                batch.push(picture);
                free -= size;
            }
            _ => {
                batches.push(vec![picture]);
                free = MAX_MESSAGE.saturating_sub(frame + size);
            }
        }
    }
    batches
}

async fn classify(
    session: &Session,
    embedded: &Embedded,
    run: &Name,
    batches: &[(Vec<usize>, Job)],
    lines: &mut Lines,
) -> anyhow::Result<()> {
    if batches.is_empty() {
        return Ok(());
    }
    let by_id: BTreeMap<&JobId, &(Vec<usize>, Job)> = batches.iter().map(|batch| (&batch.1.id, batch)).collect();
    let jobs: Vec<Job> = batches.iter().map(|(_, job)| job.clone()).collect();
    let mut again = format!("the same command with --run {run} takes it up again");
    if !session.places.is_embedded() {
        again.push_str(&format!("; the workers go on meanwhile, unless `gannet cancel {run}` stops them"));
    }
    with_workers(session, embedded, Some(run), &[Kind::Batch], &again, async |session: &Session| {
        let mut bar = Bar::new("batches", jobs.len(), None);
        let mut written = Ok(());
        let unwritten = Notify::new();
        let drive = Drive { queue: session.queue.as_ref(), store: session.store.as_ref(), run };
        let mut tell = |news: News<'_>| {
            if let News::Result(result) = &news
                && let Some((indices, job)) = by_id.get(&result.id)
                && written.is_ok()
            {
                written = bar.suspend(|| lines.batch(indices, job, result));
                if written.is_err() {
                    unwritten.notify_one();
                }
            }
            bar.hear(&news);
        };
        let driven = tokio::select! {
            driven = drive.all(&jobs, &mut tell) => driven.map(|_| ()),
            // There is no use in labels that cannot be written.
            () = unwritten.notified() => Ok(()),
        };
        bar.finish();
        written.and(driven)
    })
    .await
}

#[cfg(test)]
mod tests {
    use shared::contract::ImageRef;

    use super::*;

    #[test]
    fn batches_are_as_large_as_asked_or_as_a_message_holds() {
        let picture = |index: usize, name: &str| Picture { index, image: ImageRef::file(name, "/x"), stamp: None };
        let pictures = |count: usize, name: &str| (0..count).map(|index| picture(index, name)).collect::<Vec<_>>();
        let sizes = |pictures, most| cut(pictures, most, FRAME).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(pictures(7, "a"), 3), [3, 3, 1]);
        assert!(cut(Vec::new(), 3, FRAME).is_empty());
        let long = cut(pictures(200, &"x".repeat(4_000)), 200, FRAME);
        let bytes = |batch: &Vec<Picture>| {
            batch.iter().map(|picture| serde_json::to_vec(&picture.image).expect("plain data").len() + 1).sum::<usize>()
        };
        assert!(long.len() > 1 && long.iter().all(|batch| bytes(batch) < MAX_MESSAGE));
        let indices: Vec<usize> = long.into_iter().flatten().map(|picture| picture.index).collect();
        assert_eq!(indices, (0..200).collect::<Vec<_>>());
    }
}

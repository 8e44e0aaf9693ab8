//! `gannet demo`: the main job on this machine, from nothing to a report.
//!
//! A small study on handwritten digits, its best network as a model, and that model on test digits.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use image::{ExtendedColorType, ImageEncoder as _, codecs::png::PngEncoder};
use shared::contract::{Batch, ImageRef, ImageVerdict, Job, JobResult, Kind, Output, Precision, Work};
use shared::digest::Digest;
use shared::names::{JobId, Name, ObjectRef};
use shared::store::{Store, layout};

use super::embedded::{Embedded, with_workers};
use super::tune::{tune, verdict};
use super::{Listed, Reported, fresh_run};
use crate::data::{self, Table, mnist};
use crate::drive::Drive;
use crate::models;
use crate::report::StudySummary;
use crate::runs::{self, Asked, RunManifest};
use crate::session::Session;
use crate::study::Study;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gannet demo\n  gannet demo --quick\n  gannet demo --data mnist/ --report digits.html"
)]
pub(super) struct Arguments {
    /// Fewer trials on fewer digits
    #[arg(long)]
    quick: bool,
    /// A folder with the four MNIST files [default: ../shared/data/mnist, else a download, else digits drawn on the spot]
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    data: Option<PathBuf>,
    #[command(flatten)]
    reported: Reported,
    #[command(flatten)]
    embedded: Embedded,
    #[command(flatten)]
    listed: Listed,
}

const STUDY: &str = include_str!("demo/study.toml");
const QUICK_STUDY: &str = include_str!("demo/quick.toml");
/// Measures time against workers: a few equal trials.
const RACE: &str = include_str!("demo/race.toml");
/// Test digits that the winner labels.
const PICTURES: usize = 100;

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let session = Session::open().await?;
    let (table, source) = {
        let (given, cache) = (arguments.data.clone(), session.places.home.join("mnist"));
        tokio::task::spawn_blocking(move || mnist::find(given.as_deref(), &cache)).await??
    };
    eprintln!("{source}");
    let name = Name::new("digits").expect("a name");
    let table = Arc::new(table);
    data::push(session.store.as_ref(), &name, Arc::clone(&table), &|_, _| ()).await?;

    let text = if arguments.quick { QUICK_STUDY } else { STUDY };
    let study = Study::parse(text, "the demo's study")?;
    let run = fresh_run(&study.name);
    let report_file = arguments.reported.file(&run)?;
    let mut tuned = tune(&session, &study, text.into(), run.clone(), &arguments.embedded).await?;
    let (winner, result) = runs::winner(&tuned.trials).context("no trial of the demo ended well")?;
    let model = Name::new("digits").expect("a name");
    let (model_ref, _) = models::promote(session.store.as_ref(), winner, result, &model).await?;
    eprintln!("model {model}: the network of {}", winner.id);

    classify(&session, &arguments.embedded, &table, &model_ref).await?;
    if session.places.is_embedded() {
        tuned.times = race(&session, &arguments.embedded).await?;
    }
    let summary = StudySummary { notes: vec![source.to_string()], ..tuned.summary() };
    super::print(&summary.listing(), arguments.listed.format)?;
    eprintln!("{}", verdict(&summary));
    super::write_report(&summary, &report_file)?;
    eprintln!(
        "next: `gannet tune examples/digits.toml` tunes the whole network on these digits, `gannet data push` brings data of your own"
    );
    Ok(())
}

/// Labels test digits with the winner, as a batch job like any other.
async fn classify(session: &Session, embedded: &Embedded, table: &Table, model: &ObjectRef) -> anyhow::Result<()> {
    let run = fresh_run(&Name::new("demo-pictures").expect("a name"));
    let (images, truth) = upload_digits(session.store.as_ref(), &run, table).await?;
    let asked = Asked::Classification { model: model.clone(), images: images.len() as u64 };
    RunManifest::new(run.clone(), asked).create(session.store.as_ref()).await?;
    let id = JobId::new("b0000").expect("a letter and digits");
    let (scores, output, precision, calibration) = (None, Output::Labels, Precision::Fp32, Vec::new());
    let batch =
        Batch { model: model.clone(), images, top_k: 3, threshold: None, scores, output, precision, calibration };
    let job = Job { id, run: run.clone(), work: Work::Batch(Box::new(batch)) };
    let kinds = [Kind::Batch];
    let results =
        with_workers(session, embedded, Some(&run), &kinds, "run the demo again", async |session: &Session| {
            let drive = Drive { queue: session.queue.as_ref(), store: session.store.as_ref(), run: &run };
            drive.all(std::slice::from_ref(&job), &mut |_| ()).await
        })
        .await?;
    let outcome = results.values().find_map(JobResult::batch).context("the pictures were not classified")?;
    let best = |verdict: &ImageVerdict| match verdict {
        ImageVerdict::Predictions(predictions) => predictions.first().cloned(),
        ImageVerdict::Embedding(_) | ImageVerdict::Error(_) => None,
    };
    let labelled: Vec<_> = outcome
        .images
        .iter()
        .zip(&truth)
        .filter_map(|(image, truth)| Some((image, best(&image.verdict)?, *truth)))
        .collect();
    let right = labelled.iter().filter(|(_, prediction, truth)| prediction.index == *truth).count();
    let mut talk = std::io::stderr().lock();
    for (image, prediction, truth) in labelled.iter().take(5) {
        writeln!(
            talk,
            "  {} is a {truth}: labelled {} ({:.1} %)",
            image.image,
            prediction.label,
            100.0 * prediction.score
        )?;
    }
    writeln!(talk, "labelled {} test digits, {right} of them rightly", truth.len())?;
    Ok(())
}

/// Puts test digits into the run's folder as PNG files, and says what each really is.
async fn upload_digits(store: &dyn Store, run: &Name, table: &Table) -> anyhow::Result<(Vec<ImageRef>, Vec<u32>)> {
    let split = table.splits.get("test").context("the data have no test split")?;
    let &[1, height, width] = table.shape.as_slice() else { anyhow::bail!("the data are no grey pictures") };
    let mut images = Vec::new();
    for (index, pixels) in split.inputs.chunks_exact(height * width).take(PICTURES).enumerate() {
        let mut png = Vec::new();
        PngEncoder::new(&mut png).write_image(
            pixels,
            u32::try_from(width)?,
            u32::try_from(height)?,
            ExtendedColorType::L8,
        )?;
        let sha256 = Digest::of(&png);
        let key = layout::image(run, sha256);
        store.put(&key, Bytes::from(png)).await?;
        images.push(ImageRef::object(format!("test digit {index}"), ObjectRef { key, sha256 }));
    }
    let truth = split.labels.iter().take(images.len()).copied().collect();
    Ok((images, truth))
}

/// The same trials with one worker, two, … up to the machine's: what a worker more is worth here.
async fn race(session: &Session, embedded: &Embedded) -> anyhow::Result<Vec<(u32, f64)>> {
    let study = Study::parse(RACE, "the demo's race")?;
    let mut times = Vec::new();
    let counts =
        std::iter::successors(Some(1), |n| Some(2 * n)).take_while(|n| *n < embedded.slots()).chain([embedded.slots()]);
    for workers in counts {
        let run = Name::new(format!("{}-w{workers}", fresh_run(&study.name)))?;
        let embedded = Embedded { workers: Some(workers), ..embedded.clone() };
        times.extend(tune(session, &study, RACE.into(), run, &embedded).await?.times);
    }
    Ok(times)
}

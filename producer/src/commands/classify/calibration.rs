//! The pictures that int8 is calibrated on: a sample of the run's, or of others.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use anyhow::bail;
use serde::{Deserialize, Serialize};
use shared::contract::{ImageOutcome, ImageRef, ImageVerdict};
use shared::digest::Digest;
use shared::names::Name;
use shared::store::{get_optional, get_optional_json, layout, settle_json};

use super::take::{self, Picture};
use crate::images::{self, Image};
use crate::session::Session;
use crate::words::count;

/// So many tell what values are like: more change the scores less than the rounding does.
const ENOUGH: usize = 32;

/// Pictures, and the stamps of those that are files. Kept with the run: who takes it up goes on with the same.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Calibration {
    pub(super) images: Vec<ImageRef>,
    pub(super) stamps: Vec<Option<[i64; 3]>>,
}

/// A sample of what `inputs` mean; `None` where there are none, and the run's own pictures are meant. Sends nothing.
///
/// # Errors
/// There is no picture, or the store refuses.
pub(super) async fn find(
    session: &Session,
    run: Option<&Name>,
    inputs: &[OsString],
) -> anyhow::Result<Option<Vec<Image>>> {
    if inputs.is_empty() {
        return Ok(None);
    }
    // What is taken up has its own.
    if let Some(run) = run
        && get_optional(session.store.as_ref(), &layout::calibration(run)).await?.is_some()
    {
        return Ok(None);
    }
    if inputs.iter().any(|input| input == "-") {
        bail!(
            "--calibrate-on -: standard input is for the pictures to label; files, folders, patterns and @LIST are accepted"
        );
    }
    let found = images::find(inputs, session.store.as_ref(), &session.places.store).await?;
    if let Some(left_out) = found.left_out() {
        eprintln!("note: --calibrate-on: {left_out}");
    }
    if found.images.is_empty() {
        let inputs: Vec<_> = inputs.iter().map(|input| input.to_string_lossy()).collect();
        bail!("--calibrate-on {}: there is no picture", inputs.join(" "));
    }
    Ok(Some(sample(found.images, |image| &image.name)))
}

impl Calibration {
    /// What the run began with; of a new one these samples, or else some of its pictures.
    ///
    /// # Errors
    /// A sample cannot be had, or has changed since the run began: scores would be others. The store refuses.
    pub(super) async fn of(
        session: &Session,
        run: &Name,
        samples: Option<Vec<Image>>,
        pictures: &[Picture],
    ) -> anyhow::Result<Self> {
        let (store, key) = (session.store.as_ref(), layout::calibration(run));
        let begun: Option<Self> = get_optional_json(store, &key).await?;
        if let Some(begun) = begun {
            begun.still_stands(run)?;
            let pictures = count(begun.images.len(), "picture");
            eprintln!("note: int8 stays calibrated on the {pictures} that the run began with");
            return Ok(begun);
        }
        let chosen = match samples {
            Some(samples) => {
                let mut chosen = Vec::new();
                for taken in take::all(session, run, samples).await? {
                    match taken {
                        Ok(picture) => chosen.push(picture),
                        Err((_, outcome)) => bail!("--calibrate-on {}", unreadable(&outcome)),
                    }
                }
                chosen
            }
            None => {
                let chosen = sample(readable(pictures), |picture| &picture.image.image);
                if pictures.is_empty() {
                    // Nothing is going to be computed, unless the run is taken up when there is something.
                    return Ok(Self::default());
                }
                if chosen.is_empty() {
                    bail!("int8: none of the pictures may be read, so there is nothing to calibrate it on");
                }
                let pictures = count(chosen.len(), "picture");
                eprintln!(
                    "note: int8 is calibrated on {pictures} of this run: --calibrate-on with the same pictures gives the same scores in other runs"
                );
                chosen
            }
        };
        if chosen.len() < ENOUGH {
            eprintln!(
                "note: {} are few to calibrate on: with {ENOUGH} that are like those to label (--calibrate-on) scores are nearer to fp32's",
                count(chosen.len(), "picture")
            );
        }
        let (images, stamps) = chosen.into_iter().map(|picture| (picture.image, picture.stamp)).unzip();
        Ok(settle_json(store, &key, Self { images, stamps }).await?)
    }

    fn still_stands(&self, run: &Name) -> anyhow::Result<()> {
        for (image, stamp) in self.images.iter().zip(&self.stamps) {
            let Some(file) = image.file.as_deref().filter(|_| stamp.is_some()) else { continue };
            let problem = match take::stamp(Path::new(file)) {
                Ok(found) if Some(found) == *stamp => continue,
                Ok(_) => "it has changed since".into(),
                Err(error) => error.message,
            };
            bail!(
                "`{}`, which int8 was calibrated on when the run `{run}` began: {problem}; scores would not go with the others', so choose another --run",
                image.image
            );
        }
        Ok(())
    }
}

/// Those that may be read, as far as can be seen here: others have an error of their own, and nobody else's picture waits for them.
fn readable(pictures: &[Picture]) -> Vec<Picture> {
    let opens = |file: &str| std::fs::File::open(file).is_ok();
    pictures.iter().filter(|picture| picture.image.file.as_deref().is_none_or(opens)).cloned().collect()
}

/// The picture of an outcome, and why there is none.
fn unreadable(outcome: &ImageOutcome) -> String {
    let why = match &outcome.verdict {
        ImageVerdict::Error(error) => error.message.as_str(),
        _ => "it cannot be had",
    };
    format!("{}: {why}", outcome.image)
}

/// Some of a list, in its order: the same for the same list, and nearly the same for nearly the same. By the digests of their names, so that nothing in the
/// order, such as a file beside each picture, makes them alike.
fn sample<T>(all: Vec<T>, name: impl Fn(&T) -> &str) -> Vec<T> {
    let mut drawn: Vec<(Digest, usize)> =
        all.iter().enumerate().map(|(at, one)| (Digest::of(name(one).as_bytes()), at)).collect();
    drawn.sort_unstable();
    drawn.truncate(ENOUGH);
    let drawn: BTreeSet<usize> = drawn.into_iter().map(|(_, at)| at).collect();
    all.into_iter().enumerate().filter(|(at, _)| drawn.contains(at)).map(|(_, one)| one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_the_same_for_the_same_list_and_in_its_order() {
        let names = |count: usize| -> Vec<String> { (0..count).map(|number| format!("{number:04}.png")).collect() };
        let of = |names: Vec<String>| sample(names, |name| name);
        assert!(of(names(0)).is_empty());
        assert_eq!(of(names(ENOUGH)), names(ENOUGH));
        let some = of(names(1000));
        assert_eq!(some, of(names(1000)));
        assert!(some.len() == ENOUGH && some.is_sorted());
        // Every second one would be of one kind where each picture has a file beside it.
        let odd = some.iter().filter(|name| name.as_bytes()[3] % 2 == 1).count();
        assert!((8..=24).contains(&odd), "{odd} of {ENOUGH}");
        // One that goes is replaced by one.
        let rest = of(names(1000).into_iter().filter(|name| *name != some[0]).collect());
        assert_eq!(rest.iter().filter(|name| some.contains(name)).count(), ENOUGH - 1);
    }
}

//! The pictures that int8 is calibrated on: a sample of the run's, or of others.

use std::ffi::OsString;

use anyhow::bail;
use shared::contract::ImageRef;
use shared::names::Name;

use super::take::{self, Picture};
use crate::images;
use crate::session::Session;
use crate::words::count;

/// So many tell what values are like: more change the scores less than the rounding does.
const ENOUGH: usize = 32;

/// Pictures, and the stamps of those that are files.
#[derive(Debug, Default)]
pub(super) struct Calibration {
    pub(super) images: Vec<ImageRef>,
    pub(super) stamps: Vec<Option<[i64; 3]>>,
}

impl Calibration {
    /// Some of what `inputs` mean, or, where there are none, of the run's pictures.
    ///
    /// # Errors
    /// There is none, or the store refuses.
    pub(super) async fn of(
        session: &Session,
        run: &Name,
        inputs: &[OsString],
        pictures: &[Picture],
    ) -> anyhow::Result<Self> {
        if inputs.is_empty() {
            let chosen = Self::spread(pictures);
            eprintln!(
                "note: int8 is calibrated on {} of this run: --calibrate-on with the same pictures gives the same scores in other runs",
                count(chosen.images.len(), "picture")
            );
            return Ok(chosen);
        }
        let found = images::find(inputs, session.store.as_ref(), &session.places.store).await?;
        let taken = take::all(session, run, found.images).await?;
        let pictures: Vec<Picture> = taken.into_iter().filter_map(Result::ok).collect();
        if pictures.is_empty() {
            let inputs: Vec<_> = inputs.iter().map(|input| input.to_string_lossy()).collect();
            bail!("--calibrate-on {}: no picture can be read there", inputs.join(" "));
        }
        Ok(Self::spread(&pictures))
    }

    /// Pictures from all parts of a list: the same for the same list.
    fn spread(pictures: &[Picture]) -> Self {
        let wanted = pictures.len().min(ENOUGH);
        let chosen = (0..wanted).map(|number| &pictures[number * pictures.len() / wanted]);
        let (images, stamps) = chosen.map(|picture| (picture.image.clone(), picture.stamp)).unzip();
        Self { images, stamps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_over_all() {
        let pictures = |count: usize| -> Vec<Picture> {
            let one = |index| Picture { index, image: ImageRef::file(index.to_string(), "/x"), stamp: None };
            (0..count).map(one).collect()
        };
        let names = |count: usize| -> Vec<usize> {
            let images = Calibration::spread(&pictures(count)).images;
            images.iter().map(|image| image.image.parse().expect("a number")).collect()
        };
        assert!(names(0).is_empty());
        assert_eq!(names(3), [0, 1, 2]);
        assert_eq!(names(ENOUGH), (0..ENOUGH).collect::<Vec<_>>());
        assert_eq!(names(10 * ENOUGH), (0..ENOUGH).map(|number| 10 * number).collect::<Vec<_>>());
    }
}

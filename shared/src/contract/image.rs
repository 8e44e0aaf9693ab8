//! What the pictures of a dataset become: a trial says it, and a model that is made of the trial keeps it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dataset::MOST_ELEMENTS;
use super::{Filter, Resize, Shape, Size};
use crate::strict::Problem;

/// How pictures of any size become a network's input `[channels, height, width]`: decoded, resized, cropped in the
/// middle. Means and standard deviations are the dataset's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageInput {
    /// Height and width of the input.
    pub size: Size,
    /// 3 for RGB, 1 for luma.
    #[serde(default = "rgb")]
    pub channels: u32,
    /// How a picture is resized before the crop; straight to `size` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// How new pixels are made of old ones.
    #[serde(default)]
    pub filter: Filter,
}

/// The longest edge of an input.
const LONGEST_EDGE: usize = 1 << 14;

impl ImageInput {
    /// `[channels, height, width]`.
    pub fn shape(&self) -> Shape {
        let [height, width] = self.size.pair();
        vec![self.channels as usize, height, width]
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first one out of range, by its key.
    pub fn check(&self) -> Result<(), Problem> {
        let [height, width] = self.size.pair();
        let accepted = format!("1 to {LONGEST_EDGE} pixels, or [height, width], of at most {MOST_ELEMENTS} in all,");
        if ![height, width].iter().all(|edge| (1..=LONGEST_EDGE).contains(edge)) || height * width * 3 > MOST_ELEMENTS {
            return Err(Problem::new("size", format!("[{height}, {width}]"), format!("{accepted} are accepted")));
        }
        if !matches!(self.channels, 1 | 3) {
            return Err(Problem::new("channels", self.channels, "3 (RGB) and 1 (grey) are accepted"));
        }
        let Some(resize) = self.resize else { return Ok(()) };
        resize.check()?;
        let [rows, columns] = match resize {
            Resize::ShortestEdge(edge) | Resize::ShortestEdgeCut(edge) => [edge; 2],
            Resize::Exact(size) | Resize::Covering(size) => size,
            Resize::Inside(size) => {
                let accepted = "`shortest_edge`, `shortest_edge_cut`, `exact` and `covering` are accepted";
                return Err(Problem::new("resize", format!("inside {size:?}"), accepted));
            }
        };
        if (rows as usize) < height || (columns as usize) < width {
            let accepted = format!("at least `size`, [{height}, {width}], is accepted: the rest is cut off");
            return Err(Problem::new("resize", format!("[{rows}, {columns}]"), accepted));
        }
        Ok(())
    }
}

fn rgb() -> u32 {
    3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strict;

    fn read(text: &str) -> Result<ImageInput, String> {
        let image: ImageInput = strict::json(text.as_bytes()).map_err(|problem| problem.to_string())?;
        image.check().map(|()| image).map_err(|problem| problem.to_string())
    }

    #[test]
    fn one_number_is_enough_and_what_cannot_be_is_refused() {
        assert_eq!(read(r#"{"size": 64}"#).expect("good").shape(), [3, 64, 64]);
        let whole = read(r#"{"size": [48, 64], "channels": 1, "resize": {"shortest_edge": 64}, "filter": "lanczos"}"#);
        assert_eq!(whole.expect("good").shape(), [1, 48, 64]);
        for (text, expected) in [
            (r#"{"size": 0}"#, "`size` is [0, 0]: 1 to 16384 pixels"),
            (r#"{"size": [1, 16385]}"#, "`size` is [1, 16385]"),
            (r#"{"size": 8192}"#, "of at most 67108864 in all, are accepted"),
            (r#"{"size": 8, "channels": 4}"#, "`channels` is 4: 3 (RGB) and 1 (grey) are accepted"),
            (r#"{"size": 8, "resize": {"shortest_edge": 7}}"#, "`resize` is [7, 7]: at least `size`, [8, 8]"),
            (r#"{"size": [8, 4], "resize": {"exact": [4, 8]}}"#, "`resize` is [4, 8]"),
            (r#"{"size": 8, "resize": {"shortest_edge": 0}}"#, "`resize` is 0 pixels"),
            (r#"{"size": 8, "colour": true}"#, "unknown field `colour`"),
            (r#"{"size": "big"}"#, "a number, or [height, width]"),
        ] {
            let refused = read(text).expect_err(text);
            assert!(refused.contains(expected), "{refused}");
        }
    }
}

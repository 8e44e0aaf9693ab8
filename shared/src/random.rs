//! Random numbers keyed by what they are for.
//!
//! A stream is named by a seed and a path of words and numbers ("study 7, trial 12, learning_rate"):
//! the same name gives the same numbers on every worker, in any order of asking, so that nothing
//! random has to be stored in a checkpoint.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::Digest as _;

/// The generator of a stream: ChaCha with eight rounds, the same numbers on every platform.
pub type Stream = ChaCha8Rng;

/// One word of a stream's name.
#[derive(Debug, Clone, Copy)]
pub enum Word<'a> {
    /// A word.
    Text(&'a str),
    /// A number.
    Number(u64),
}

impl<'a> From<&'a str> for Word<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Word<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Word<'_> {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

/// The stream that `seed` and `name` stand for.
pub fn stream(seed: u32, name: &[Word<'_>]) -> Stream {
    // Lengths and tags keep ("ab", "c") and ("a", "bc") apart.
    let mut hasher = sha2::Sha256::new();
    hasher.update(seed.to_le_bytes());
    for word in name {
        match word {
            Word::Text(text) => {
                hasher.update([0]);
                hasher.update((text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
            Word::Number(number) => {
                hasher.update([1]);
                hasher.update(number.to_le_bytes());
            }
        }
    }
    Stream::from_seed(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::Rng as _;

    use super::*;

    fn first(seed: u32, name: &[Word<'_>]) -> u64 {
        stream(seed, name).next_u64()
    }

    #[test]
    fn a_name_gives_the_same_numbers_everywhere() {
        assert_eq!(first(7, &["trial".into(), 3u32.into()]), first(7, &["trial".into(), 3u32.into()]));
    }

    #[test]
    fn different_names_give_different_numbers() {
        let names: [&[Word<'_>]; 5] = [
            &[],
            &["ab".into(), "c".into()],
            &["a".into(), "bc".into()],
            &["a".into(), 1u32.into()],
            &["a".into(), 2u32.into()],
        ];
        let mut firsts: Vec<u64> = names.iter().map(|name| first(1, name)).collect();
        firsts.push(first(2, &[]));
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 6);
    }
}

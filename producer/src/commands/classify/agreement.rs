//! How often a run in bf16 or int8 gives pictures the best label that they have in fp32, as far as its results tell.

use anyhow::bail;
use shared::contract::{Agreement, BatchOutcome, Precision};

use crate::words::count;

/// So many pictures must have been compared before a run is refused while it runs: of fewer each weighs too much. At its end one more may
/// differ.
const ENOUGH: usize = 20;

/// What the batches so far have said.
#[derive(Debug)]
pub(super) struct Agreements {
    asked: Precision,
    least: f64,
    /// What is said behind a refusal.
    rest: String,
    compared: usize,
    agreed: usize,
    /// Batches, and those of them that were computed in fp32 nevertheless.
    batches: usize,
    full: usize,
}

impl Agreements {
    /// None yet, for a run that asks for a precision and wants at least this share to agree; `rest` says what else there is to
    /// know when it does not.
    pub(super) fn new(asked: Precision, least: f64, rest: String) -> Self {
        Self { asked, least, rest, compared: 0, agreed: 0, batches: 0, full: 0 }
    }

    /// Whether anything but fp32 is asked for.
    pub(super) fn is_asked(&self) -> bool {
        self.asked != Precision::Fp32
    }

    /// Takes what a batch says.
    ///
    /// # Errors
    /// Too few agree.
    pub(super) fn add(&mut self, outcome: &BatchOutcome) -> anyhow::Result<()> {
        let Agreement { compared, agreed } = outcome.agreement.unwrap_or_default();
        self.compared += compared as usize;
        self.agreed += agreed as usize;
        self.batches += 1;
        self.full += usize::from(outcome.precision == Precision::Fp32);
        if self.compared >= ENOUGH { self.check(0) } else { Ok(()) }
    }

    /// Says what was found, where it was asked for; after the last batch.
    ///
    /// # Errors
    /// Too few agree, also where few were compared.
    pub(super) fn finish(&self) -> anyhow::Result<()> {
        self.tell();
        self.check(usize::from(self.compared < ENOUGH))
    }

    fn check(&self, spared: usize) -> anyhow::Result<()> {
        if ((self.agreed + spared) as f64) < self.least * self.compared as f64 {
            bail!(
                "{} is too coarse for this model: of {} that were computed in fp32, too, {} have the same best label, and \
                 --min-agreement is {}; use --precision fp32{}",
                self.asked.as_str(),
                count(self.compared, "picture"),
                self.agreed,
                self.least,
                self.rest
            );
        }
        Ok(())
    }

    /// Says what was found so far.
    pub(super) fn tell(&self) {
        if let Some(said) = self.said() {
            eprintln!("{said}");
        }
    }

    fn said(&self) -> Option<String> {
        if !self.is_asked() || self.batches == 0 {
            return None;
        }
        let name = self.asked.as_str();
        if self.full == self.batches {
            let or = if self.asked == Precision::Int8 { ", or no picture to calibrate on can be read" } else { "" };
            return Some(format!(
                "note: all was computed in fp32: nothing is faster in {name} on these workers with this model{or}"
            ));
        }
        let mut said = format!(
            "{name}: {} of {} that were computed in fp32, too, have the same best label",
            self.agreed,
            count(self.compared, "picture")
        );
        if self.compared > 0 {
            said += &format!(" ({:.1} %)", 100.0 * self.agreed as f64 / self.compared as f64);
        }
        if self.full > 0 {
            said += &format!("; {} of {} were computed in fp32 alone", self.full, count(self.batches, "job"));
        }
        Some(said)
    }
}

#[cfg(test)]
mod tests {
    use shared::digest::Digest;

    use super::*;

    fn outcome(precision: Precision, compared: u32, agreed: u32) -> BatchOutcome {
        let agreement = (precision != Precision::Fp32).then_some(Agreement { compared, agreed });
        BatchOutcome { model: Digest::of(b"m"), precision, agreement, images: Vec::new() }
    }

    #[test]
    fn it_is_refused_as_soon_as_enough_disagree() {
        let mut agreements = Agreements::new(Precision::Bf16, 0.98, String::new());
        for _ in 0..9 {
            agreements.add(&outcome(Precision::Bf16, 2, 1)).expect("18 are too few to tell");
        }
        let refused = agreements.add(&outcome(Precision::Bf16, 2, 2)).expect_err("too few agree").to_string();
        assert!(
            refused.contains("of 20 pictures") && refused.contains("11 have") && refused.contains("--precision fp32")
        );
        let finished = |compared, agreed| {
            let mut agreements = Agreements::new(Precision::Bf16, 0.98, String::new());
            agreements.add(&outcome(Precision::Bf16, compared, agreed)).and_then(|()| agreements.finish()).is_ok()
        };
        assert_eq!(
            [(2, 1), (2, 0), (18, 17), (18, 16), (18, 0), (1, 0), (0, 0)].map(|(of, n)| finished(of, n)),
            [true, false, true, false, false, true, true]
        );
        let mut agreements = Agreements::new(Precision::Bf16, 0.98, String::new());
        for agreed in [1].into_iter().chain(std::iter::repeat_n(2, 24)) {
            let before = agreements.compared;
            let added = agreements.add(&outcome(Precision::Bf16, 2, agreed));
            assert_eq!(added.is_err(), (20..50).contains(&(before + 2)), "49 of 50 are 0.98");
        }
    }

    #[test]
    fn it_is_said_what_was_computed() {
        let mut agreements = Agreements::new(Precision::Bf16, 0.5, String::new());
        assert_eq!(agreements.said(), None);
        agreements.add(&outcome(Precision::Fp32, 0, 0)).expect("nothing was compared");
        assert!(agreements.said().expect("said").contains("all was computed in fp32"));
        agreements.add(&outcome(Precision::Bf16, 2, 2)).expect("all agree");
        agreements.add(&outcome(Precision::Bf16, 1, 0)).expect("few were compared");
        let said = agreements.said().expect("said");
        assert_eq!(
            said,
            "bf16: 2 of 3 pictures that were computed in fp32, too, have the same best label (66.7 %); 1 of 3 jobs were \
             computed in fp32 alone"
        );
        let mut full = Agreements::new(Precision::Fp32, 0.98, String::new());
        full.add(&outcome(Precision::Fp32, 0, 0)).expect("as asked");
        assert_eq!(full.said(), None);
    }
}

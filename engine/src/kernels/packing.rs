//! The order of a convolution's weights in memory: as its tiles read them.

use crate::simd::LANES;

/// Input channels of a run, in blocked maps: half a block, so that 24 channels cost 24.
pub(super) const RUN: usize = 8;

/// Weights `[outs, ins / groups, taps]` as `[blocks of 16 outputs][runs of inputs x taps][inputs of a run][16 outputs]`.
///
/// Groups are blocks that are left out: a block of outputs has rows only for the blocks of inputs that its groups
/// see. What is inside such a block and belongs to no group is zero, and so are outputs and inputs
/// beyond the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packing {
    outs: usize,
    ins: usize,
    groups: usize,
    taps: usize,
    /// Channels of an input's block: [`LANES`], 1, or words of several channels.
    lanes: usize,
    /// Where each block of outputs begins, and the end.
    starts: Vec<usize>,
}

/// A run of input channels under one tap: `run` rows of sixteen weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// The run's first channel.
    pub(super) channel: usize,
    pub(super) tap: usize,
}

impl Packing {
    /// For `outs` and `ins` channels in `groups`, `taps` taps, and inputs in blocks of `lanes`.
    pub fn new(outs: usize, ins: usize, groups: usize, taps: usize, lanes: usize) -> Self {
        let mut packing = Self { outs, ins, groups, taps, lanes, starts: vec![0] };
        for block in 0..outs.div_ceil(LANES) {
            let start = packing.starts[block];
            packing.starts.push(start + packing.slots(block).count() * packing.run() * LANES);
        }
        packing
    }

    /// Channels of a run.
    pub(super) fn run(&self) -> usize {
        self.lanes.min(RUN)
    }

    /// Floats of all weights.
    pub fn len(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Blocks of outputs.
    pub(super) fn blocks(&self) -> usize {
        self.starts.len() - 1
    }

    /// The place of a block of outputs' weights: rows of sixteen, one an output.
    pub(crate) fn block(&self, block: usize) -> std::ops::Range<usize> {
        self.starts[block]..self.starts[block + 1]
    }

    /// Where a block's weights begin.
    pub(super) fn start(&self, block: usize) -> usize {
        self.starts[block]
    }

    /// Whether two blocks of outputs read the same inputs.
    pub(super) fn reads_alike(&self, block: usize, other: usize) -> bool {
        self.in_blocks(block) == self.in_blocks(other)
    }

    /// The blocks of inputs that a block of outputs reads.
    fn in_blocks(&self, block: usize) -> std::ops::Range<usize> {
        let last = ((block + 1) * LANES).min(self.outs) - 1;
        let (first, last) = (self.group_of_out(block * LANES), self.group_of_out(last));
        let per_group = self.ins / self.groups;
        first * per_group / self.lanes..((last + 1) * per_group).div_ceil(self.lanes)
    }

    fn group_of_out(&self, out: usize) -> usize {
        out / (self.outs / self.groups)
    }

    /// Runs of a block of inputs: one where the last block is at most half full.
    fn runs_of(&self, in_block: usize) -> usize {
        (self.ins - in_block * self.lanes).min(self.lanes).div_ceil(self.run())
    }

    /// What a block of outputs sums over, in its weights' order: inputs by block, its taps, its runs.
    pub(super) fn slots(&self, block: usize) -> impl Iterator<Item = Slot> + '_ {
        self.in_blocks(block).flat_map(move |in_block| {
            (0..self.taps).flat_map(move |tap| {
                (0..self.runs_of(in_block))
                    .map(move |run| Slot { channel: in_block * self.lanes + run * self.run(), tap })
            })
        })
    }

    /// Where the weights of a block of outputs for an input channel and a tap begin: sixteen, one an output. `None` where it reads no such channel.
    pub(super) fn row(&self, block: usize, channel: usize, tap: usize) -> Option<usize> {
        let blocks = self.in_blocks(block);
        let in_block = channel / self.lanes;
        if !blocks.contains(&in_block) {
            return None;
        }
        // All blocks before the last are full.
        let before = (in_block - blocks.start) * self.taps * self.lanes;
        let own = tap * self.runs_of(in_block) * self.run();
        Some(self.starts[block] + (before + own + channel % self.lanes) * LANES)
    }

    /// Copies weights `[outs, ins / groups, taps]` in.
    pub fn pack(&self, weights: &[f32], packed: &mut [f32]) {
        if !self.is_full() {
            packed[..self.len()].fill(0.0);
        }
        self.visit(|plain, place| packed[place] = weights[plain]);
    }

    /// Whether every number stands for a weight.
    fn is_full(&self) -> bool {
        self.groups == 1 && self.outs.is_multiple_of(LANES) && self.ins.is_multiple_of(self.run())
    }

    /// Copies weights `[outs, ins / groups, taps]` out.
    pub fn unpack(&self, packed: &[f32], weights: &mut [f32]) {
        self.visit(|plain, place| weights[plain] = packed[place]);
    }

    /// Calls `f(place in plain weights, place in packed ones)` for every weight.
    fn visit(&self, mut f: impl FnMut(usize, usize)) {
        let (per_group, outs_per_group) = (self.ins / self.groups, self.outs / self.groups);
        for block in 0..self.blocks() {
            let end = ((block + 1) * LANES).min(self.outs);
            let mut first = block * LANES;
            // Outputs of one group read the same rows.
            while first < end {
                let group = self.group_of_out(first);
                let outs = first..end.min((group + 1) * outs_per_group);
                first = outs.end;
                let channels = group * per_group..(group + 1) * per_group;
                for in_block in channels.start / self.lanes..channels.end.div_ceil(self.lanes) {
                    // Its channels' rows lie one after the other.
                    let own = channels.start.max(in_block * self.lanes)..channels.end.min((in_block + 1) * self.lanes);
                    for tap in 0..self.taps {
                        let row = self.row(block, own.start, tap).expect("a group's inputs are read");
                        let plain = (own.start - channels.start) * self.taps + tap;
                        for inside in 0..own.len() {
                            let (row, plain) = (row + inside * LANES, plain + inside * self.taps);
                            outs.clone().for_each(|out| f(out * per_group * self.taps + plain, row + out % LANES));
                        }
                    }
                }
            }
        }
    }

    /// Sets to zero what stands for no weight, in a gradient that was summed without looking.
    pub fn clear_padding(&self, packed: &mut [f32]) {
        if self.groups == 1 && self.ins.is_multiple_of(self.run()) {
            // Outputs beyond the last have a gradient of zero by themselves.
            return;
        }
        let per_group = self.ins / self.groups;
        for block in 0..self.blocks() {
            let rows = packed[self.starts[block]..self.starts[block + 1]].chunks_exact_mut(LANES);
            let channels = self.slots(block).flat_map(|slot| slot.channel..slot.channel + self.run());
            for (row, channel) in rows.zip(channels) {
                for (lane, weight) in row.iter_mut().enumerate() {
                    let out = block * LANES + lane;
                    let group = self.group_of_out(out.min(self.outs - 1));
                    if out >= self.outs || channel >= self.ins || channel / per_group != group {
                        *weight = 0.0;
                    }
                }
            }
        }
    }

    /// The same weights with inputs and outputs exchanged and only some `taps`, in their order: what the gradient of the
    /// inputs multiplies with.
    pub(super) fn transposed(&self, taps: usize) -> Self {
        Self::new(self.ins, self.outs, self.groups, taps, LANES)
    }

    /// Copies `packed` into `to`, whose packing is `transposed` with these `taps`.
    pub(super) fn transpose(&self, packed: &[f32], transposed: &Self, taps: &[usize], to: &mut [f32]) {
        for block in 0..transposed.blocks() {
            let mut place = transposed.starts[block];
            for slot in transposed.slots(block) {
                let (channel, lanes) = (block * LANES, (self.ins - block * LANES).min(LANES));
                for out in slot.channel..slot.channel + RUN {
                    let to = &mut to[place..place + LANES];
                    place += LANES;
                    // A block of inputs lies together under a tap: its channels are sixteen weights apart.
                    let row = (out < self.outs).then(|| self.row(out / LANES, channel, taps[slot.tap])).flatten();
                    match row {
                        Some(row) => {
                            for (lane, to) in to[..lanes].iter_mut().enumerate() {
                                *to = packed[row + out % LANES + lane * LANES];
                            }
                            to[lanes..].fill(0.0);
                        }
                        None => to.fill(0.0),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_come_back_and_padding_is_zero() {
        for (outs, ins, groups, taps, lanes) in
            [(20, 24, 1, 9, 16), (16, 3, 1, 25, 1), (36, 12, 3, 1, 16), (64, 64, 4, 3, 16), (48, 96, 2, 1, 16)]
        {
            let packing = Packing::new(outs, ins, groups, taps, lanes);
            let count = outs * ins / groups * taps;
            let weights: Vec<f32> = (0..count).map(|i| i as f32 + 1.0).collect();
            let mut packed = vec![7.0; packing.len()];
            packing.pack(&weights, &mut packed);
            assert_eq!(packed.iter().filter(|weight| **weight != 0.0).count(), count);
            let mut back = vec![0.0; count];
            packing.unpack(&packed, &mut back);
            assert_eq!(back, weights);

            let mut noise = packed.clone();
            noise.iter_mut().filter(|weight| **weight == 0.0).for_each(|weight| *weight = 5.0);
            if !outs.is_multiple_of(LANES) || ins % packing.run() != 0 || groups > 1 {
                packing.clear_padding(&mut noise);
            }
            let left = noise.iter().zip(&packed).enumerate().filter(|(_, (a, b))| a != b);
            // Outputs beyond the last are left where nothing else is padded.
            assert!(left.clone().all(|_| groups == 1), "{:?}", left.count());

            if lanes == 1 {
                continue;
            }
            let chosen: Vec<usize> = (0..taps).rev().step_by(2).collect();
            let transposed = packing.transposed(chosen.len());
            let mut turned = vec![3.0; transposed.len()];
            packing.transpose(&packed, &transposed, &chosen, &mut turned);
            let mut plain = vec![0.0; count / taps * chosen.len()];
            transposed.unpack(&turned, &mut plain);
            assert_eq!(turned.iter().filter(|weight| **weight != 0.0).count(), plain.len());
            let (group_outs, group_ins) = (outs / groups, ins / groups);
            for out in 0..outs {
                for inside in 0..group_ins {
                    for (index, tap) in chosen.iter().enumerate() {
                        let channel = out / group_outs * group_ins + inside;
                        let found = plain[(channel * group_outs + out % group_outs) * chosen.len() + index];
                        assert_eq!(found, weights[(out * group_ins + inside) * taps + tap]);
                    }
                }
            }
        }
    }
}

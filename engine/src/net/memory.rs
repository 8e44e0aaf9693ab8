//! Where values and gradients lie. Buffers are planned once, and used again by others of the same form
//! when nobody reads them any more.

use crate::buffer::Buffer;
use crate::maps::Maps;

/// How one example of a value lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// Maps.
    Maps(Maps),
    /// So many floats in a row.
    Row(usize),
}

impl Form {
    /// Floats of one example.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Maps(maps) => maps.len(),
            Self::Row(len) => *len,
        }
    }

    /// The maps, of a value that is known to have some.
    pub(crate) fn maps(&self) -> Maps {
        match self {
            Self::Maps(maps) => *maps,
            Self::Row(_) => unreachable!("the graph knows which values are maps"),
        }
    }
}

/// A value's place: in a buffer, with the examples one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) buffer: usize,
    /// Where the first example begins.
    pub(crate) start: usize,
    pub(crate) form: Form,
}

/// Something that needs a buffer from one moment to another, both included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    pub(crate) form: Form,
    pub(crate) from: usize,
    pub(crate) until: usize,
}

/// All buffers.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    buffers: Vec<Buffer>,
    forms: Vec<Form>,
}

impl Arena {
    /// Places for `needs`, of `batch` examples each. A buffer is shared by needs of one form that do not overlap: so halos, which
    /// nobody writes, stay zero.
    pub(crate) fn place(&mut self, needs: &[Need], batch: usize) -> Vec<Place> {
        let mut order: Vec<usize> = (0..needs.len()).collect();
        order.sort_by_key(|index| needs[*index].from);
        // Buffers of this call, with when they are free again.
        let mut free: Vec<(usize, usize)> = Vec::new();
        let mut places = vec![Place { buffer: 0, start: 0, form: Form::Row(0) }; needs.len()];
        for index in order {
            let need = &needs[index];
            let reusable =
                free.iter_mut().find(|(buffer, until)| self.forms[*buffer] == need.form && *until < need.from);
            let buffer = match reusable {
                Some((buffer, until)) => {
                    *until = need.until;
                    *buffer
                }
                None => {
                    // One more example, for parts that do not begin where an example does; pages that nobody touches take no memory.
                    self.buffers.push(Buffer::zeros((batch + 1) * need.form.len()));
                    self.forms.push(need.form);
                    free.push((self.buffers.len() - 1, need.until));
                    self.buffers.len() - 1
                }
            };
            places[index] = Place { buffer, start: 0, form: need.form };
        }
        places
    }

    /// A place's floats.
    pub(crate) fn read(&self, place: &Place) -> &[f32] {
        &self.buffers[place.buffer][place.start..]
    }

    /// A place's floats, to be written.
    pub(crate) fn write(&mut self, place: &Place) -> &mut [f32] {
        &mut self.buffers[place.buffer][place.start..]
    }

    /// A place to be written, and places of other buffers to be read.
    pub(crate) fn read_all<const N: usize>(
        &mut self,
        output: &Place,
        inputs: [&Place; N],
    ) -> (&mut [f32], [&[f32]; N]) {
        let (before, rest) = self.buffers.split_at_mut(output.buffer);
        let (written, after) = rest.split_first_mut().expect("the output has a buffer");
        let inputs = inputs.map(|place| {
            let buffer = if place.buffer < output.buffer {
                &before[place.buffer]
            } else {
                &after[place.buffer.checked_sub(output.buffer + 1).expect("places of different buffers")]
            };
            &buffer[place.start..]
        });
        (&mut written[output.start..], inputs)
    }

    /// Several places of different buffers at once.
    pub(crate) fn write_all<const N: usize>(&mut self, places: [&Place; N]) -> [&mut [f32]; N] {
        let mut starts = places.iter().map(|place| place.start);
        let buffers = self.buffers.get_disjoint_mut(places.map(|place| place.buffer));
        buffers.expect("places of different buffers").map(|buffer| &mut buffer[starts.next().unwrap_or(0)..])
    }

    /// Calls `f` with all places to read but one, which is written: one place may be read twice.
    pub(crate) fn write_beside(&mut self, place: &Place, f: impl FnOnce(&Self, &mut [f32])) {
        let mut buffer = std::mem::take(&mut self.buffers[place.buffer]);
        f(self, &mut buffer[place.start..]);
        self.buffers[place.buffer] = buffer;
    }

    /// Bytes of all buffers.
    pub(crate) fn bytes(&self) -> usize {
        self.buffers.iter().map(|buffer| buffer.len() * size_of::<f32>()).sum()
    }
}

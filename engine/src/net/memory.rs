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

    /// Whether these are maps in blocks of channels, of floats or of bytes.
    pub(crate) fn is_blocks(&self) -> bool {
        matches!(self, Self::Maps(maps) if maps.lanes > 1)
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
    /// What halos hold: zeros, or four bytes that stand for zero.
    pub(crate) padding: u32,
    /// Whether some of it is a place of its own: one that does not begin where an example does reaches into the room of one more.
    pub(crate) has_parts: bool,
}

/// All buffers.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    buffers: Vec<Buffer>,
}

impl Arena {
    /// Places for `needs`, of `batch` examples each. A buffer is shared by needs of one form and padding that do not overlap: so halos,
    /// which nobody writes, stay as they are.
    pub(crate) fn place(&mut self, needs: &[Need], batch: usize) -> Vec<Place> {
        let mut order: Vec<usize> = (0..needs.len()).collect();
        order.sort_by_key(|index| needs[*index].from);
        // Buffers of this call, from the first new one on, with what is asked of them: when they are free again moves on.
        let first = self.buffers.len();
        let mut wanted: Vec<Need> = Vec::new();
        let mut places = vec![Place { buffer: 0, start: 0, form: Form::Row(0) }; needs.len()];
        for index in order {
            let need = &needs[index];
            let is_free =
                |buffer: &Need| (buffer.form, buffer.padding) == (need.form, need.padding) && buffer.until < need.from;
            let buffer = wanted.iter().position(is_free).unwrap_or_else(|| {
                wanted.push(*need);
                wanted.len() - 1
            });
            wanted[buffer].until = need.until;
            wanted[buffer].has_parts |= need.has_parts;
            places[index] = Place { buffer: first + buffer, start: 0, form: need.form };
        }
        let room = |need: &Need| {
            let mut room = Buffer::zeros((batch + usize::from(need.has_parts)) * need.form.len());
            if need.padding != 0 {
                room.fill(f32::from_bits(need.padding));
            }
            room
        };
        self.buffers.extend(wanted.iter().map(room));
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

//! Protobuf's wire format, read in place: nothing is copied, so that a file takes no more memory than it has bytes.
//!
//! A generated or derived decoder would copy every weight, and fill lists of messages before anybody can bound them.

use crate::error::Error;

/// A field's contents.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field<'a> {
    /// A whole number, and its bytes.
    Varint(u64, &'a [u8]),
    /// Four or eight bytes.
    Fixed(&'a [u8]),
    /// A text, a message, or packed numbers.
    Bytes(&'a [u8]),
}

/// Reads a message's fields.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

fn damaged<T>(what: &str) -> Result<T, Error> {
    Err(Error::Damaged(what.into()))
}

impl<'a> Fields<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field with its number.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (key, _) = self.varint()?;
        let field = match key & 7 {
            0 => {
                let (number, bytes) = self.varint()?;
                Field::Varint(number, bytes)
            }
            1 => Field::Fixed(self.take(8)?),
            2 => {
                let (length, _) = self.varint()?;
                Field::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => Field::Fixed(self.take(4)?),
            kind => return damaged(&format!("a field of kind {kind}")),
        };
        Ok(Some((key >> 3, field)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        match self.rest.split_at_checked(length) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => damaged("it is cut off, or no protobuf message"),
        }
    }

    fn varint(&mut self) -> Result<(u64, &'a [u8]), Error> {
        let mut number = 0_u64;
        for (index, byte) in self.rest.iter().enumerate().take(10) {
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok((number, self.take(index + 1)?));
            }
        }
        damaged("it is cut off, or no protobuf message")
    }
}

impl<'a> Field<'a> {
    pub(crate) fn bytes(self) -> Result<&'a [u8], Error> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => damaged("a number stands where a text or a message is needed"),
        }
    }

    pub(crate) fn text(self) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes()?).or_else(|_| damaged("a name is no UTF-8"))
    }

    pub(crate) fn int(self) -> Result<i64, Error> {
        match self {
            Self::Varint(number, _) => Ok(number.cast_signed()),
            _ => damaged("something else stands where a whole number is needed"),
        }
    }

    pub(crate) fn float(self) -> Result<f32, Error> {
        match self {
            Self::Fixed(&[a, b, c, d]) => Ok(f32::from_le_bytes([a, b, c, d])),
            _ => damaged("something else stands where a number is needed"),
        }
    }

    /// The bytes of one number or of packed ones.
    pub(crate) fn numbers(self) -> &'a [u8] {
        match self {
            Self::Varint(_, bytes) | Self::Fixed(bytes) | Self::Bytes(bytes) => bytes,
        }
    }
}

/// How many whole numbers are packed here.
pub(crate) fn packed(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0x80 == 0).count()
}

/// Packed whole numbers; the caller has counted them.
pub(crate) fn varints(bytes: &[u8]) -> Result<Vec<i64>, Error> {
    let mut numbers = Vec::with_capacity(packed(bytes));
    let mut fields = Fields::new(bytes);
    while !fields.rest.is_empty() {
        numbers.push(fields.varint()?.0.cast_signed());
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields() {
        let mut fields = Fields::new(&[0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f]);
        assert_eq!(
            fields.next().expect("it is good").map(|(number, field)| (number, field.int().expect("it is good"))),
            Some((1, 150))
        );
        assert_eq!(
            fields.next().expect("it is good").map(|(number, field)| (number, field.text().expect("it is good"))),
            Some((2, "hi"))
        );
        assert_eq!(
            fields.next().expect("it is good").map(|(number, field)| (number, field.float().expect("it is good"))),
            Some((3, 1.0))
        );
        assert!(fields.next().expect("it is good").is_none());
    }

    #[test]
    fn refuses_what_is_cut_off() {
        for bytes in [
            &[0x08_u8][..],
            &[0x12, 5, 1],
            &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x0b],
            &[0xff; 11],
        ] {
            assert!(Fields::new(bytes).next().is_err(), "{bytes:?}");
        }
    }
}

//! Protobuf messages as lists of fields: to write small ONNX files, and to change others.

/// A field's contents.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Field {
    Varint(u64),
    Fixed(Vec<u8>),
    Bytes(Vec<u8>),
}

/// A message's fields with their numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Message(pub(crate) Vec<(u64, Field)>);

fn varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

impl Message {
    pub(crate) fn parse(mut bytes: &[u8]) -> Self {
        let mut fields = Vec::new();
        let number = |bytes: &mut &[u8]| {
            let mut number = 0;
            for at in 0.. {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                number |= u64::from(byte & 0x7f) << (7 * at);
                if byte & 0x80 == 0 {
                    break;
                }
            }
            number
        };
        while !bytes.is_empty() {
            let key = number(&mut bytes);
            let take = |count: usize, bytes: &mut &[u8]| {
                let (taken, rest) = bytes.split_at(count);
                *bytes = rest;
                taken.to_vec()
            };
            let field = match key & 7 {
                0 => Field::Varint(number(&mut bytes)),
                1 => Field::Fixed(take(8, &mut bytes)),
                2 => {
                    let length = number(&mut bytes) as usize;
                    Field::Bytes(take(length, &mut bytes))
                }
                _ => Field::Fixed(take(4, &mut bytes)),
            };
            fields.push((key >> 3, field));
        }
        Self(fields)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut to = Vec::new();
        for (number, field) in &self.0 {
            let kind = match field {
                Field::Varint(_) => 0,
                Field::Fixed(bytes) => {
                    if bytes.len() == 8 {
                        1
                    } else {
                        5
                    }
                }
                Field::Bytes(_) => 2,
            };
            varint(&mut to, number << 3 | kind);
            match field {
                Field::Varint(number) => varint(&mut to, *number),
                Field::Fixed(bytes) => to.extend(bytes),
                Field::Bytes(bytes) => {
                    varint(&mut to, bytes.len() as u64);
                    to.extend(bytes);
                }
            }
        }
        to
    }

    #[must_use]
    pub(crate) fn int(mut self, number: u64, value: i64) -> Self {
        self.0.push((number, Field::Varint(value.cast_unsigned())));
        self
    }

    #[must_use]
    pub(crate) fn float(mut self, number: u64, value: f32) -> Self {
        self.0.push((number, Field::Fixed(value.to_le_bytes().to_vec())));
        self
    }

    #[must_use]
    pub(crate) fn put(mut self, number: u64, bytes: impl AsRef<[u8]>) -> Self {
        self.0.push((number, Field::Bytes(bytes.as_ref().to_vec())));
        self
    }

    #[must_use]
    pub(crate) fn with(self, number: u64, message: &Self) -> Self {
        self.put(number, message.bytes())
    }
}

pub(crate) const GRAPH: u64 = 7;
pub(crate) const NODE: u64 = 1;
pub(crate) const INITIALIZER: u64 = 5;
pub(crate) const INPUT: u64 = 11;

/// `AttributeProto`s.
pub(crate) fn int(name: &str, value: i64) -> Message {
    Message::default().put(1, name).int(3, value).int(20, 2)
}

pub(crate) fn float(name: &str, value: f32) -> Message {
    Message::default().put(1, name).float(2, value).int(20, 1)
}

pub(crate) fn ints(name: &str, values: &[i64]) -> Message {
    values.iter().fold(Message::default().put(1, name), |message, value| message.int(8, *value)).int(20, 7)
}

pub(crate) fn tensor_of(name: &str, value: &Message) -> Message {
    Message::default().put(1, name).with(5, value).int(20, 4)
}

/// `NodeProto`: names of inputs and outputs are parted by spaces.
pub(crate) fn node(op: &str, inputs: &str, outputs: &str, attributes: &[Message]) -> Message {
    let names = |message, number, names: &str| names.split_whitespace().fold(message, |m: Message, n| m.put(number, n));
    let message = names(names(Message::default(), 1, inputs), 2, outputs).put(4, op);
    attributes.iter().fold(message, |message, attribute| message.with(5, attribute))
}

/// `TensorProto` of floats.
pub(crate) fn floats(name: &str, dims: &[i64], values: &[f32]) -> Message {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    dims.iter().fold(Message::default(), |message, dim| message.int(1, *dim)).int(2, 1).put(8, name).put(9, raw)
}

/// `TensorProto` of whole numbers.
pub(crate) fn longs(name: &str, values: &[i64]) -> Message {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Message::default().int(1, values.len() as i64).int(2, 7).put(8, name).put(9, raw)
}

/// A file whose input is `x` and whose output is `y`.
pub(crate) fn model(input: &[i64], nodes: &[Message], tensors: &[Message]) -> Vec<u8> {
    let shape = input.iter().fold(Message::default(), |shape, dim| shape.with(1, &Message::default().int(1, *dim)));
    let tensor = Message::default().int(1, 1).with(2, &shape);
    let graph = nodes.iter().fold(Message::default(), |graph, node| graph.with(NODE, node));
    let graph = tensors.iter().fold(graph, |graph, tensor| graph.with(INITIALIZER, tensor));
    let graph = graph
        .with(INPUT, &Message::default().put(1, "x").with(2, &Message::default().with(1, &tensor)))
        .with(12, &Message::default().put(1, "y"));
    Message::default().int(1, 8).with(GRAPH, &graph).with(8, &Message::default().put(1, "").int(2, 17)).bytes()
}

//! Reading protobuf without building it: the fields of a message, borrowed from its bytes.
//!
//! A list of a million empty entries takes two bytes each on the wire and fifty in memory; read like this it takes none.

pub(crate) use berth_grpc::frame::Malformed;

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// An integer or a truth value.
    Number(u64),
    /// Bytes, text or a message.
    Bytes(&'a [u8]),
    /// Four or eight bytes: no field of Lima's has them.
    Fixed,
}

/// Wire types, the low three bits of a field's key.
pub(crate) const VARINT: u64 = 0;
pub(crate) const FIXED64: u64 = 1;
pub(crate) const LENGTH: u64 = 2;
pub(crate) const FIXED32: u64 = 5;

/// The fields of one message, in the order of the wire. Ends at the first error.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = Varint::default();
        while let Some((byte, rest)) = self.0.split_first() {
            self.0 = rest;
            if let Some(value) = number.push(*byte)? {
                return Ok(value);
            }
        }
        Err(Malformed("a number that is cut off"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let taken = usize::try_from(length)
            .ok()
            .and_then(|length| self.0.split_at_checked(length));
        let (taken, rest) = taken.ok_or(Malformed("a field longer than its message"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), Malformed> {
        let key = self.varint()?;
        let value = match key & 7 {
            VARINT => Value::Number(self.varint()?),
            FIXED64 => self.take(8).map(|_| Value::Fixed)?,
            LENGTH => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            FIXED32 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(Malformed("a field of no known type")),
        };
        Ok((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    /// Number and value.
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// A number on its way in, seven bits a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Varint {
    value: u64,
    shift: u32,
}

impl Varint {
    /// Takes one byte; the number, when that was its last.
    pub(crate) fn push(&mut self, byte: u8) -> Result<Option<u64>, Malformed> {
        if self.shift > 63 || (self.shift == 63 && byte > 1) {
            return Err(Malformed("a number of more than 64 bits"));
        }
        self.value |= u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        Ok((byte < 0x80).then_some(self.value))
    }
}

/// The text of a field; `None` when it is not UTF-8.
pub(crate) fn text(value: Value<'_>) -> Option<&str> {
    match value {
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        Value::Number(_) | Value::Fixed => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(message: &[u8]) -> Vec<Result<(u64, Value<'_>), Malformed>> {
        Fields::of(message).collect()
    }

    #[test]
    fn every_wire_type_is_read_or_passed_over() {
        let message = b"\x08\x96\x01\x12\x02hi\x19\0\0\0\0\0\0\0\0\x25\0\0\0\0\x28\0";
        let expected = [
            (1, Value::Number(150)),
            (2, Value::Bytes(b"hi")),
            (3, Value::Fixed),
            (4, Value::Fixed),
            (5, Value::Number(0)),
        ];
        assert_eq!(all(message), expected.map(Ok));
    }

    #[test]
    fn what_is_no_message_is_an_error_and_the_end() {
        for message in [
            &b"\x08"[..],
            b"\x08\xff",
            b"\x12\x05hi",
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01hi",
            b"\x0b\x0c",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x19\0\0",
        ] {
            let fields = all(message);
            assert_eq!(fields.len(), 1, "{message:x?}");
            assert!(fields[0].is_err(), "{message:x?}");
        }
    }
}

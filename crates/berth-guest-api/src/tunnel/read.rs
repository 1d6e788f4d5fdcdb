//! Reading `TunnelMessage`s as they arrive, without putting them together: the payload goes through untouched.

use bytes::{Buf, Bytes};

use berth_grpc::frame::{Limit, PREFIX};

use crate::fields::{FIXED32, FIXED64, LENGTH, Malformed, VARINT, Varint};

/// Number of the field that holds the payload.
pub(super) const DATA: u64 = 3;

/// A piece of what came through the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// A payload of so many bytes begins; never 0.
    Begin(u64),
    /// Some of it.
    Data(Bytes),
}

/// What the next byte is.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Of the prefix, of which so many bytes are there.
    Prefix([u8; PREFIX], usize),
    /// Of a field's key.
    Key(Varint),
    /// Of a number that nobody asked for.
    Number(Varint),
    /// Of the length of the field with this number.
    Length(u64, Varint),
    /// The first of so many that nobody asked for.
    Skip(u64),
    /// The first of so many of the payload.
    Data(u64),
}

/// Takes messages apart. Holds no payload.
#[derive(Debug)]
pub(super) struct Reader {
    step: Step,
    /// Bytes of the message that are still to come.
    left: u64,
    /// The message has had its payload.
    had_data: bool,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            step: Step::Prefix([0; PREFIX], 0),
            left: 0,
            had_data: false,
        }
    }

    /// Whether everything so far was whole messages.
    pub(super) fn between_messages(&self) -> bool {
        matches!(self.step, Step::Prefix(_, 0))
    }

    /// The next piece of `input`, which is used up to there; `None` when nothing is left of it.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Option<Piece>, Malformed> {
        while !input.is_empty() {
            let piece = match self.step {
                Step::Data(rest) => Some(Piece::Data(self.bulk(rest, input, Step::Data))),
                Step::Skip(rest) => {
                    self.bulk(rest, input, Step::Skip);
                    None
                }
                _ => self.byte(input.get_u8())?,
            };
            if piece.is_some() {
                return Ok(piece);
            }
        }
        Ok(None)
    }

    /// Takes what there is of `rest` bytes.
    fn bulk(&mut self, rest: u64, input: &mut Bytes, step: fn(u64) -> Step) -> Bytes {
        let some = usize::try_from(rest).map_or(input.len(), |rest| rest.min(input.len()));
        let taken = input.split_to(some);
        self.left -= some as u64;
        match rest - some as u64 {
            0 => self.field_over(),
            rest => self.step = step(rest),
        }
        taken
    }

    /// Takes a byte that belongs to no payload.
    fn byte(&mut self, byte: u8) -> Result<Option<Piece>, Malformed> {
        if let Step::Prefix(mut have, count) = self.step {
            have[count] = byte;
            if count + 1 < PREFIX {
                self.step = Step::Prefix(have, count + 1);
            } else {
                self.left = Limit::Mib4.message_length(have)? as u64;
                self.had_data = false;
                self.field_over();
            }
            return Ok(None);
        }
        self.left = self.left.checked_sub(1).ok_or(TOO_LONG)?;
        match self.step {
            Step::Key(mut key) => match key.push(byte)? {
                None => self.step = Step::Key(key),
                Some(key) => self.key(key)?,
            },
            Step::Number(mut number) => match number.push(byte)? {
                None => self.step = Step::Number(number),
                Some(_) => self.field_over(),
            },
            Step::Length(field, mut length) => match length.push(byte)? {
                None => self.step = Step::Length(field, length),
                Some(length) if field == DATA && length > 0 => return self.data(length).map(Some),
                Some(length) => self.skip(length)?,
            },
            // Dealt with in bulk, or above.
            Step::Data(_) | Step::Skip(_) | Step::Prefix(..) => {}
        }
        Ok(None)
    }

    fn key(&mut self, key: u64) -> Result<(), Malformed> {
        match key & 7 {
            VARINT => self.step = Step::Number(Varint::default()),
            LENGTH => self.step = Step::Length(key >> 3, Varint::default()),
            FIXED64 => self.skip(8)?,
            FIXED32 => self.skip(4)?,
            _ => return Err(Malformed("a field of no known type")),
        }
        Ok(())
    }

    fn skip(&mut self, length: u64) -> Result<(), Malformed> {
        if length > self.left {
            return Err(TOO_LONG);
        }
        match length {
            0 => self.field_over(),
            length => self.step = Step::Skip(length),
        }
        Ok(())
    }

    fn data(&mut self, length: u64) -> Result<Piece, Malformed> {
        if length > self.left {
            return Err(TOO_LONG);
        }
        if std::mem::replace(&mut self.had_data, true) {
            return Err(Malformed("a message with two payloads"));
        }
        self.step = Step::Data(length);
        Ok(Piece::Begin(length))
    }

    fn field_over(&mut self) {
        self.step = match self.left {
            0 => Step::Prefix([0; PREFIX], 0),
            _ => Step::Key(Varint::default()),
        };
    }
}

const TOO_LONG: Malformed = Malformed("a field longer than its message");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::TunnelMessage;
    use berth_grpc::frame::framed;

    /// Reads `wire` in pieces of these lengths (the last one again and again), and puts the payloads together.
    fn payloads(wire: &[u8], lengths: &[usize]) -> Result<Vec<Vec<u8>>, Malformed> {
        let mut reader = Reader::new();
        let mut input = Bytes::copy_from_slice(wire);
        let mut lengths = lengths.iter().copied();
        let mut length = 1;
        let mut found: Vec<(u64, Vec<u8>)> = Vec::new();
        while !input.is_empty() {
            length = lengths.next().unwrap_or(length).clamp(1, input.len());
            let mut chunk = input.split_to(length);
            while let Some(piece) = reader.next(&mut chunk)? {
                match piece {
                    Piece::Begin(length) => found.push((length, Vec::new())),
                    Piece::Data(data) => found.last_mut().unwrap().1.extend(data),
                }
            }
        }
        assert!(reader.between_messages());
        assert!(found.iter().all(|(told, data)| *told == data.len() as u64));
        Ok(found.into_iter().map(|(_, data)| data).collect())
    }

    fn message(id: &str, data: &[u8]) -> TunnelMessage {
        TunnelMessage {
            id: id.into(),
            data: data.into(),
            ..TunnelMessage::default()
        }
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_payloads_are_those_of_the_messages(
            messages in prop::collection::vec(
                ("[a-z0-9:-]{0,200}", prop::collection::vec(any::<u8>(), 0..300), "[a-z]{0,9}"),
                0..8,
            ),
            lengths in prop::collection::vec(1_usize..400, 0..40),
        ) {
            let mut wire = Vec::new();
            for (id, data, address) in &messages {
                let message = TunnelMessage { guest_addr: address.clone(), ..message(id, data) };
                wire.extend(framed(&message));
            }
            let sent = messages.into_iter().map(|(_, data, _)| data);
            let sent: Vec<_> = sent.filter(|data| !data.is_empty()).collect();
            prop_assert_eq!(payloads(&wire, &lengths).unwrap(), sent);
        }

        #[test]
        fn noise_never_makes_a_payload_that_was_not_there(
            wire in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut reader = Reader::new();
            let mut input = Bytes::from(wire.clone());
            let mut total = 0;
            while let Ok(Some(piece)) = reader.next(&mut input) {
                if let Piece::Data(data) = piece {
                    total += data.len();
                }
            }
            prop_assert!(total <= wire.len());
        }
    }

    #[test]
    fn unknown_fields_of_every_type_are_passed_over() {
        let mut wire = b"\0\0\0\0\x1f".to_vec();
        wire.extend(
            b"\x30\x96\x01\x39\0\0\0\0\0\0\0\0\x45\0\0\0\0\x1a\x02hi\x52\x04skip\x5a\0\x32\0",
        );
        wire.extend(framed(&message("", b"more")));
        assert_eq!(payloads(&wire, &[1]).unwrap(), [&b"hi"[..], b"more"]);
        assert_eq!(payloads(&wire, &[999]).unwrap(), [&b"hi"[..], b"more"]);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (wire, why) in [
            (&b"\x01\0\0\0\x01x"[..], "a compressed message"),
            (b"\0\xff\xff\xff\xff", "a message above 4 MiB"),
            (
                b"\0\0\0\0\x02\x1a\x05hello",
                "a field longer than its message",
            ),
            (
                b"\0\0\0\0\x02\x0a\x05hello",
                "a field longer than its message",
            ),
            (b"\0\0\0\0\x01\x1a\x01", "a field longer than its message"),
            (b"\0\0\0\0\x01\x39\x01", "a field longer than its message"),
            (b"\0\0\0\0\x01\x0b", "a field of no known type"),
            (
                b"\0\0\0\0\x06\x1a\x01a\x1a\x01b",
                "a message with two payloads",
            ),
            (
                b"\0\0\0\0\x0b\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
                "a number of more than 64 bits",
            ),
        ] {
            assert_eq!(payloads(wire, &[1]), Err(Malformed(why)), "{wire:x?}");
        }
    }
}

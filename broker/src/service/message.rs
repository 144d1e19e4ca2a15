//! A `SignRequest` as it comes: its head, and then its body piece by piece, which isn't kept.
//!
//! It is one message of gRPC on the wire, so any client can send it; encoders write fields in the order of
//! their numbers, the body after everything else. What is held of it is bounded by [`MAX_HEAD`], counted
//! before it is decoded, and given back with it.

use std::time::Duration;

use http_body_util::BodyExt as _;
use prost::Message as _;
use prost::bytes::{Buf, Bytes, BytesMut};
use prost::encoding::{WireType, decode_varint};
use sigward_proto::MAX_MESSAGE_BYTES;
use sigward_proto::v1::Header;
use tokio::time::{Instant, timeout_at};

use super::budget::Share;
use crate::call::BodyReader;
use crate::error::{Denial, Reason};

/// All of a message but its body: headers and a URI, each of which has a limit of its own.
const MAX_HEAD: usize = 96 << 10;
/// More headers than any MCP client sends; each costs more decoded than on the wire.
const MAX_HEADERS: usize = 100;
/// Between two pieces, and for the whole.
const PIECE: Duration = Duration::from_secs(10);
const WHOLE: Duration = Duration::from_secs(120);

/// A message that is coming.
pub(crate) struct Incoming<'b> {
    body: tonic::body::Body,
    /// What has come and isn't read yet; the prefix of gRPC is gone.
    ahead: BytesMut,
    /// How much of the message is still to be taken from `ahead` and `body`.
    left: usize,
    share: &'b mut Share,
    deadline: Instant,
}

/// Everything before the body.
#[derive(Debug, Default)]
pub(crate) struct MessageHead {
    pub(crate) profile: String,
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) headers: Vec<Header>,
    pub(crate) payload: Payload,
}

/// What there is of the body.
#[derive(Debug, Default)]
pub(crate) enum Payload {
    /// Nothing was said of it.
    #[default]
    None,
    /// It follows.
    Follows,
    Hash(Bytes),
}

fn malformed() -> Denial {
    Denial::new(Reason::InvalidMessage, "not a message of this service")
}

fn too_long() -> Denial {
    Denial::new(Reason::InvalidMessage, "the head of the message is too long")
}

impl<'b> Incoming<'b> {
    pub(crate) fn new(body: tonic::body::Body, share: &'b mut Share) -> Self {
        let deadline = Instant::now() + WHOLE;
        Self { body, ahead: BytesMut::new(), left: 0, share, deadline }
    }

    /// The next piece; none at the end.
    async fn piece(&mut self) -> Result<Option<Bytes>, Denial> {
        let late = || Denial::new(Reason::InvalidMessage, "the message came too slowly");
        loop {
            let deadline = self.deadline.min(Instant::now() + PIECE);
            let frame = timeout_at(deadline, self.body.frame()).await.map_err(|_| late())?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|status| {
                Denial::new(
                    Reason::InvalidMessage,
                    format!("the message broke off: {}", status.code()),
                )
            })?;
            match frame.into_data() {
                Ok(data) if data.has_remaining() => return Ok(Some(data)),
                // Trailers, or nothing.
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Waits for more of the head.
    async fn more(&mut self) -> Result<(), Denial> {
        let piece = self.piece().await?.ok_or_else(malformed)?;
        self.share.take(piece.len())?;
        self.ahead.extend_from_slice(&piece);
        Ok(())
    }

    /// Reads everything before the body.
    pub(crate) async fn head(&mut self) -> Result<MessageHead, Denial> {
        // gRPC over HTTP/2, "Length-Prefixed-Message".
        while self.ahead.len() < 5 {
            self.more().await?;
        }
        let compressed = self.ahead.get_u8() != 0;
        self.left = self.ahead.get_u32() as usize;
        if compressed || self.left > MAX_MESSAGE_BYTES {
            return Err(Denial::new(Reason::InvalidMessage, "compressed, or too long"));
        }
        let mut head = MessageHead::default();
        let mut read = 0;
        while self.left > 0 {
            if let Some(used) = self.field(&mut head)? {
                read += used;
                if read > MAX_HEAD {
                    return Err(too_long());
                }
                if matches!(head.payload, Payload::Follows) {
                    return Ok(head);
                }
            } else {
                if read + self.ahead.len() > MAX_HEAD {
                    return Err(too_long());
                }
                self.more().await?;
            }
        }
        if !self.ahead.is_empty() {
            return Err(malformed());
        }
        self.end().await?;
        Ok(head)
    }

    /// Waits for the end of the stream: there is one message in a call.
    ///
    /// Whoever answers before that resets the stream, where the end comes in a frame of its own; and of so many resets
    /// (`intake::MAX_RESETS`) HTTP/2 takes the caller for an attacker, and closes its connection.
    async fn end(&mut self) -> Result<(), Denial> {
        match self.piece().await? {
            None => Ok(()),
            Some(_) => Err(malformed()),
        }
    }

    /// Reads a field, if all of it has come: how much it took.
    fn field(&mut self, head: &mut MessageHead) -> Result<Option<usize>, Denial> {
        let within = self.ahead.len().min(self.left);
        let mut bytes = &self.ahead[..within];
        let Some((key, length)) = tag(&mut bytes, within < self.left)? else { return Ok(None) };
        let length = match length {
            Length::Text(length) | Length::Fixed(length) => length,
            Length::Varint => {
                let Some(_value) = varint(&mut bytes, within < self.left)? else { return Ok(None) };
                0
            }
        };
        let prefix = within - bytes.len();
        // It may be any number of 64 bits.
        if length > self.left - prefix {
            return Err(malformed());
        }
        if key == 5 {
            // Whatever came after it would be read after it.
            if prefix + length != self.left {
                return Err(Denial::new(Reason::InvalidMessage, "the body isn't the last field"));
            }
            self.take(prefix);
            head.payload = Payload::Follows;
            return Ok(Some(prefix));
        }
        if length > MAX_HEAD {
            return Err(too_long());
        }
        let Some(value) = bytes.get(..length) else { return Ok(None) };
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).map_err(|_| malformed());
        match key {
            1 => head.profile = text(value)?,
            2 => head.method = text(value)?,
            3 => head.uri = text(value)?,
            4 if head.headers.len() >= MAX_HEADERS => {
                return Err(Denial::new(Reason::InvalidHeader, "too many headers"));
            }
            4 => head.headers.push(Header::decode(value).map_err(|_| malformed())?),
            6 => head.payload = Payload::Hash(Bytes::copy_from_slice(value)),
            // Of a newer caller.
            _ => {}
        }
        self.take(prefix + length);
        Ok(Some(prefix + length))
    }

    fn take(&mut self, bytes: usize) {
        self.ahead.advance(bytes);
        self.left -= bytes;
    }

    /// Reads the body into `reader`, which keeps next to nothing of it.
    pub(crate) async fn read_body(&mut self, reader: &mut BodyReader) -> Result<(), Denial> {
        let mut held = 0;
        let ahead = std::mem::take(&mut self.ahead).freeze();
        let mut piece = ahead;
        loop {
            if piece.len() > self.left {
                return Err(malformed());
            }
            self.left -= piece.len();
            reader.push(&piece);
            let now_held = reader.held();
            self.share.take(now_held.saturating_sub(held))?;
            held = now_held.max(held);
            if self.left == 0 {
                return self.end().await;
            }
            // A large body that is all there must not keep the worker to itself.
            tokio::task::consume_budget().await;
            piece = self.piece().await?.ok_or_else(malformed)?;
        }
    }
}

/// What a value is on the wire.
enum Length {
    /// Text or bytes, of this length.
    Text(usize),
    /// A number of this length.
    Fixed(usize),
    /// A number that says itself where it ends.
    Varint,
}

/// A field's number and the length of its value; none if that hasn't come yet.
fn tag(bytes: &mut &[u8], more_comes: bool) -> Result<Option<(u32, Length)>, Denial> {
    let Some(key) = varint(bytes, more_comes)? else { return Ok(None) };
    let length = match WireType::try_from(key & 7).map_err(|_| malformed())? {
        WireType::LengthDelimited => {
            let Some(length) = varint(bytes, more_comes)? else { return Ok(None) };
            Length::Text(usize::try_from(length).map_err(|_| malformed())?)
        }
        WireType::ThirtyTwoBit => Length::Fixed(4),
        WireType::SixtyFourBit => Length::Fixed(8),
        WireType::Varint => Length::Varint,
        WireType::StartGroup | WireType::EndGroup => return Err(malformed()),
    };
    // Of 32 bits, with the type.
    let number = u32::try_from(key).map_err(|_| malformed())? >> 3;
    // Those that we know are all texts or bytes.
    let known = (1..=6).contains(&number);
    let is_text = matches!(length, Length::Text(_));
    if number == 0 || (known && !is_text) { Err(malformed()) } else { Ok(Some((number, length))) }
}

fn varint(bytes: &mut &[u8], more_comes: bool) -> Result<Option<u64>, Denial> {
    let ends = bytes.iter().take(10).any(|byte| byte & 0x80 == 0);
    if !ends {
        // Ten bytes hold any number.
        return if more_comes && bytes.len() < 10 { Ok(None) } else { Err(malformed()) };
    }
    decode_varint(bytes).map(Some).map_err(|_| malformed())
}

#[cfg(test)]
mod tests;

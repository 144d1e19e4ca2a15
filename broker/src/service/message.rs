//! Reads a `SignRequest` as a stream: its head, and then its body piece by piece, which isn't stored.
//!
//! The stream is one gRPC message, so any client can send it; encoders write fields in the order of
//! their numbers, the body after all others. The bytes held are bounded by [`MAX_HEAD`], counted
//! before they are decoded, and released with the message.

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

/// The largest size in bytes of all fields but the body: headers and a URI, each of which has a
/// limit of its own.
const MAX_HEAD: usize = 96 << 10;
/// More headers than any MCP client sends; each takes more memory decoded than encoded.
const MAX_HEADERS: usize = 100;
/// The timeouts of the next piece, and of the whole message.
const PIECE: Duration = Duration::from_secs(10);
const WHOLE: Duration = Duration::from_secs(120);

/// A message that is being received.
pub(crate) struct Incoming<'b> {
    body: tonic::body::Body,
    /// Received bytes that aren't parsed yet, without the gRPC prefix.
    ahead: BytesMut,
    /// The bytes of the message that are still to be taken from `ahead` and `body`.
    left: usize,
    share: &'b mut Share,
    deadline: Instant,
}

/// All fields before the body.
#[derive(Debug, Default)]
pub(crate) struct MessageHead {
    pub(crate) profile: String,
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) headers: Vec<Header>,
    pub(crate) payload: Payload,
}

/// The payload of a message.
#[derive(Debug, Default)]
pub(crate) enum Payload {
    /// No payload was sent.
    #[default]
    None,
    /// The body follows.
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

    /// The next piece; `None` at the end.
    async fn piece(&mut self) -> Result<Option<Bytes>, Denial> {
        let late = || Denial::new(Reason::InvalidMessage, "the message was sent too slowly");
        loop {
            let deadline = self.deadline.min(Instant::now() + PIECE);
            let frame = timeout_at(deadline, self.body.frame()).await.map_err(|_| late())?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|status| {
                Denial::new(
                    Reason::InvalidMessage,
                    format!("the message was cut off: {}", status.code()),
                )
            })?;
            match frame.into_data() {
                Ok(data) if data.has_remaining() => return Ok(Some(data)),
                // Trailers, or the end.
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Waits for more bytes of the head.
    async fn more(&mut self) -> Result<(), Denial> {
        let piece = self.piece().await?.ok_or_else(malformed)?;
        self.share.take(piece.len())?;
        self.ahead.extend_from_slice(&piece);
        Ok(())
    }

    /// Reads all fields before the body.
    pub(crate) async fn head(&mut self) -> Result<MessageHead, Denial> {
        // gRPC over HTTP/2, "Length-Prefixed-Message".
        while self.ahead.len() < 5 {
            self.more().await?;
        }
        let compressed = self.ahead.get_u8() != 0;
        self.left = self.ahead.get_u32() as usize;
        if compressed || self.left > MAX_MESSAGE_BYTES {
            return Err(Denial::new(
                Reason::InvalidMessage,
                "the message is compressed, or too long",
            ));
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

    /// Waits for the end of the stream: a call has one message.
    ///
    /// A response before the end of the stream resets it if the end is sent in a frame of its own;
    /// after many resets (`intake::MAX_RESETS`), the HTTP/2 library takes the caller for an
    /// attacker and closes its connection.
    async fn end(&mut self) -> Result<(), Denial> {
        match self.piece().await? {
            None => Ok(()),
            Some(_) => Err(malformed()),
        }
    }

    /// Parses a field if it is complete; returns the number of bytes it takes.
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
        // The length may be any 64-bit number.
        if length > self.left - prefix {
            return Err(malformed());
        }
        if key == 5 {
            // Fields after the body would be read only after it.
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
            // A field of a newer caller is skipped.
            _ => {}
        }
        self.take(prefix + length);
        Ok(Some(prefix + length))
    }

    fn take(&mut self, bytes: usize) {
        self.ahead.advance(bytes);
        self.left -= bytes;
    }

    /// Reads the body into `reader`, which stores next to nothing of it.
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
            // A large body that is available at once must not block the worker.
            tokio::task::consume_budget().await;
            piece = self.piece().await?.ok_or_else(malformed)?;
        }
    }
}

/// The encoded form of a value.
enum Length {
    /// Text or bytes, of this length.
    Text(usize),
    /// A number of this length.
    Fixed(usize),
    /// A number with variable length.
    Varint,
}

/// A field's number and the length of its value; `None` if they aren't complete.
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
    // Field numbers have at most 29 bits, so the tag has 32.
    let number = u32::try_from(key).map_err(|_| malformed())? >> 3;
    // All known fields are text or bytes.
    let known = (1..=6).contains(&number);
    let is_text = matches!(length, Length::Text(_));
    if number == 0 || (known && !is_text) { Err(malformed()) } else { Ok(Some((number, length))) }
}

fn varint(bytes: &mut &[u8], more_comes: bool) -> Result<Option<u64>, Denial> {
    let ends = bytes.iter().take(10).any(|byte| byte & 0x80 == 0);
    if !ends {
        // Any number fits into ten bytes.
        return if more_comes && bytes.len() < 10 { Ok(None) } else { Err(malformed()) };
    }
    decode_varint(bytes).map(Some).map_err(|_| malformed())
}

#[cfg(test)]
mod tests;

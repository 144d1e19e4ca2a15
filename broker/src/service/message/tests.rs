use std::convert::Infallible;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use sigward_proto::v1::{SignRequest, sign_request};

use super::super::budget::Budget;
use super::*;

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a length").to_be_bytes();
    [&[0][..], &length, message].concat()
}

fn body(pieces: Vec<Bytes>, ends: bool) -> tonic::body::Body {
    let frames = stream::iter(pieces).map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    if ends {
        tonic::body::Body::new(StreamBody::new(frames))
    } else {
        tonic::body::Body::new(StreamBody::new(frames.chain(stream::pending())))
    }
}

/// Cuts the text into pieces of the size of HTTP/2 frames.
fn pieces(text: &[u8]) -> Vec<Bytes> {
    text.chunks(16 << 10).map(Bytes::copy_from_slice).collect()
}

/// Reads a message: its head as it was sent, and the hash of its body.
async fn read(pieces: Vec<Bytes>) -> Result<(SignRequest, Option<[u8; 32]>), Reason> {
    let budget = Arc::new(Budget::default());
    let mut share = Share::new(&budget, crate::peer::PeerId::Uid(1));
    let mut incoming = Incoming::new(body(pieces, true), &mut share);
    let head = incoming.head().await.map_err(|denial| denial.reason())?;
    let mut hash = None;
    let payload = match head.payload {
        Payload::None => None,
        Payload::Hash(hash) => Some(sign_request::Payload::BodySha256(hash)),
        Payload::Follows => {
            let mut reader = BodyReader::hashing();
            incoming.read_body(&mut reader).await.map_err(|denial| denial.reason())?;
            hash = Some(reader.finish(&[]).sha256);
            None
        }
    };
    let MessageHead { profile, method, uri, headers, .. } = head;
    Ok((SignRequest { profile, method, uri, headers, payload }, hash))
}

fn request(payload: Option<sign_request::Payload>) -> SignRequest {
    let header = |name: &str| Header { name: name.to_owned(), value: b"x".as_slice().into() };
    SignRequest {
        profile: "dev".to_owned(),
        method: "POST".to_owned(),
        uri: "https://h.example/mcp".to_owned(),
        headers: vec![header("a"), header("b")],
        payload,
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut reader = BodyReader::hashing();
    reader.push(bytes);
    reader.finish(&[]).sha256
}

#[tokio::test]
async fn a_message_is_read_with_any_cuts() {
    let bytes = |bytes: &'static [u8]| Bytes::from_static(bytes);
    for payload in [
        None,
        Some(sign_request::Payload::BodySha256(bytes(&[7; 32]))),
        Some(sign_request::Payload::Body(bytes(b""))),
        Some(sign_request::Payload::Body(bytes(b"some text of a body"))),
    ] {
        let sent = request(payload.clone());
        let text = framed(&sent.encode_to_vec());
        let (expected, hash) = match payload {
            Some(sign_request::Payload::Body(body)) => (request(None), Some(sha256(&body))),
            other => (request(other), None),
        };
        for at in 0..text.len() {
            let pieces = [&text[..at], &text[at..]].map(Bytes::copy_from_slice);
            let got = read(pieces.to_vec()).await;
            assert_eq!(got.as_ref().ok(), Some(&(expected.clone(), hash)), "cut at {at}: {got:?}");
        }
        let single = text.chunks(1).map(Bytes::copy_from_slice).collect();
        assert_eq!(read(single).await, Ok((expected, hash)));
        // A message that is cut off is refused.
        for at in 0..text.len() {
            let cut = vec![Bytes::copy_from_slice(&text[..at])];
            assert_eq!(read(cut).await, Err(Reason::InvalidMessage), "cut off at {at}");
        }
        let more = [text.as_slice(), b"x"].concat();
        assert_eq!(read(vec![more.into()]).await, Err(Reason::InvalidMessage));
    }
}

#[tokio::test]
async fn an_invalid_message_is_refused() {
    let good =
        request(Some(sign_request::Payload::Body(Bytes::from_static(b"{}")))).encode_to_vec();
    let after_body = [good.as_slice(), b"\x0a\x03dev"].concat();
    let mut compressed = framed(&good);
    compressed[0] = 1;
    let mut huge = framed(&good);
    huge[1] = 0xff;
    for wrong in [
        framed(&after_body),
        compressed,
        huge,
        framed(b"\x08\x01"),                 // the profile as a number
        framed(b"\x0a\xff\xff\xff\xff\x0f"), // a length beyond the message
        framed(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        framed(b"\x00\x00"),         // field 0
        framed(b"\x0b\x0c"),         // a group
        framed(b"\x0a\x02\xff\xfe"), // not UTF-8
        framed(b"\x22\x02\x08\x01"), // an invalid header
    ] {
        assert_eq!(
            read(vec![wrong.clone().into()]).await,
            Err(Reason::InvalidMessage),
            "{wrong:x?}"
        );
    }
    // Fields of a newer caller are skipped.
    let newer = [b"\xa0\x06\x01\xaa\x06\x02ab".as_slice(), &good].concat();
    assert!(read(vec![framed(&newer).into()]).await.is_ok());
}

/// The attacks: messages in which a few megabytes take gigabytes of memory. Everything is bounded
/// before it is decoded.
#[tokio::test]
async fn heads_are_bounded() {
    let empty_headers = b"\x22\x00".repeat(1 << 20);
    assert_eq!(read(pieces(&framed(&empty_headers))).await, Err(Reason::InvalidHeader));
    let long = [b"\x1a\x80\x80\x80\x04".as_slice(), &vec![b'a'; 8 << 20]].concat();
    assert_eq!(read(pieces(&framed(&long))).await, Err(Reason::InvalidMessage));
    let unknown = b"\xaa\x06\x10aaaaaaaaaaaaaaaa".repeat(1 << 16);
    assert_eq!(read(pieces(&framed(&unknown))).await, Err(Reason::InvalidMessage));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_sent_too_slowly_is_refused() {
    let budget = Arc::new(Budget::default());
    let mut share = Share::new(&budget, crate::peer::PeerId::Uid(1));
    let text = framed(&request(None).encode_to_vec());
    let some = vec![Bytes::copy_from_slice(&text[..12])];
    let mut incoming = Incoming::new(body(some, false), &mut share);
    let start = Instant::now();
    let denial = incoming.head().await.expect_err("it never ends");
    assert_eq!((denial.reason(), start.elapsed()), (Reason::InvalidMessage, PIECE));
}

//! Properties of every input of a client on standard input, which the fuzz target `stdio` tries to
//! violate.
//!
//! The first two bytes of the data decide how the rest is split, and the limit for a line.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use sigward_proxy::downstream::stdio::{Line, Lines};
use tokio::io::{AsyncRead, ReadBuf};

/// Panics if a property is violated for `data`.
pub(crate) fn check(data: &[u8]) {
    let [piece, limit, input @ ..] = data else { return };
    let (piece, limit) = (usize::from(*piece).max(1), usize::from(*limit));
    let expected: Vec<Line> =
        input.split(|&byte| byte == b'\n').filter_map(|line| one(line, limit)).collect();
    for piece in [piece, usize::MAX] {
        let mut lines = Lines::new(Pieces { input, piece }, limit);
        let read = std::iter::from_fn(|| {
            let next = lines.next().now_or_never().expect("there is always something to read");
            next.expect("reading a slice doesn't fail")
        });
        assert_eq!(read.collect::<Vec<_>>(), expected);
    }
}

/// The expected result of one line, whatever the others are; `None` if it is blank.
fn one(line: &[u8], limit: usize) -> Option<Line> {
    if line.len() > limit {
        return Some(Line::TooLong);
    }
    match std::str::from_utf8(line) {
        Ok(text) if text.bytes().all(|byte| byte.is_ascii_whitespace()) => None,
        Ok(text) => Some(Line::Text(text.to_owned())),
        Err(_) => Some(Line::NotText),
    }
}

/// A pipe that returns at most a given number of bytes at a time.
struct Pieces<'a> {
    input: &'a [u8],
    piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = self.piece.min(buffer.remaining()).min(self.input.len());
        let (now, later) = self.input.split_at(size);
        buffer.put_slice(now);
        self.input = later;
        Poll::Ready(Ok(()))
    }
}

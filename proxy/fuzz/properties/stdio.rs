//! What holds for every input of a client on standard input: the fuzz target `stdio` looks for one
//! where it doesn't.
//!
//! The first two bytes of the data say how the rest is cut, and how long a line may be.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use sigward_proxy::downstream::stdio::{Line, Lines};
use tokio::io::{AsyncRead, ReadBuf};

/// Fails if something doesn't hold for `data`.
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

/// What one line is, whatever the others are; nothing if it is blank.
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

/// A pipe that gives at most so many bytes at a time.
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

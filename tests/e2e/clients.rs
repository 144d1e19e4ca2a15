//! Clients that others wrote: what they see through the proxy is what a server would show them, and the profiles.

mod inspector;
mod rust;
mod scripts;

use crate::setup::World;

/// How a client reaches the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It starts it, and speaks to it over standard input and output.
    Stdio,
    /// It knows its URL.
    Http,
}

/// A signature of somebody on everything that reached the server, and nowhere a word of the proxy's argument.
fn assert_signed(world: &World) {
    for request in world.upstream.requests() {
        assert!(!request.identity().is_empty(), "{:?}", request.signature);
        assert!(!request.text().contains("aws_profile"), "{}", request.text());
    }
}

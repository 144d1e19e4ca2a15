//! Clients of others: through the proxy they see what a server would show them, and the profiles.

mod inspector;
mod rust;
mod scripts;

use crate::setup::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    /// The client starts the proxy, and uses its standard input and output.
    Stdio,
    /// The client has the URL of the proxy.
    Http,
}

/// Asserts that every request to the server was signed, and that none contains the proxy's argument.
fn assert_signed(world: &World) {
    for request in world.upstream.requests() {
        assert!(!request.identity().is_empty(), "{:?}", request.signature);
        assert!(!request.text().contains("aws_profile"), "{}", request.text());
    }
}

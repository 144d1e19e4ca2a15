//! Networks with something between the proxy and the server: HTTP proxies, and addresses that can't be reached.

use std::net::SocketAddr;

use sigward_tests::authority::{Authority, HOST};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{assert_problem, checked, command, private};
use crate::setup::World;

/// Starts an HTTP proxy, and returns its value of `HTTPS_PROXY`. It gives this answer to every CONNECT, and then
/// connects all clients to one address, whatever name they asked for.
async fn http_proxy(answer: &'static str, leads_to: Option<SocketAddr>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    asked.push(client.read_u8().await?);
                }
                client.write_all(answer.as_bytes()).await?;
                if let Some(address) = leads_to {
                    let mut server = TcpStream::connect(address).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    format!("http://{address}")
}

/// The address of the server of a world.
fn address(world: &World) -> SocketAddr {
    let url = url::Url::parse(&world.upstream.url()).unwrap();
    SocketAddr::new("127.0.0.1".parse().unwrap(), url.port().unwrap())
}

#[tokio::test]
async fn an_http_proxy_that_refuses_or_needs_a_password_is_reported() {
    let world = World::new().await;
    for (answer, words) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm=x\r\ncontent-length: 0\r\n\r\n",
            &["requires a user and a password", "http://USER:PASSWORD@", "HTTPS_PROXY"][..],
        ),
        (
            "HTTP/1.1 403 Forbidden\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
            &["doesn't let this through", "check what it allows", "NO_PROXY"],
        ),
        (
            "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n",
            &["doesn't let this through", "check what it allows"],
        ),
    ] {
        let proxy = http_proxy(answer, None).await;
        let mut checking = command(&world, "https://mcp.example.com/mcp", &private(&["dev"], &[]));
        checking.env("HTTPS_PROXY", &proxy);
        assert_problem(checking, "TLS", &[words, &[&proxy]].concat()).await;
    }
    assert!(world.upstream.requests().is_empty());
}

/// A proxy that reads TLS has its own certificate for every name, which is accepted if its authority is trusted.
#[tokio::test]
async fn a_proxy_that_reads_tls_needs_a_trusted_authority() {
    let authority = Authority::new(&["h2", "http/1.1"]);
    let world = World::with(|builder| builder.vouched_for_by(&authority)).await;
    let passes = "HTTP/1.1 200 Connection established\r\n\r\n";
    let proxy = http_proxy(passes, Some(address(&world))).await;
    let url = format!("https://{HOST}/mcp");
    let mut unknown = command(&world, &url, &private(&["dev"], &[]));
    unknown.env("HTTPS_PROXY", &proxy);
    assert_problem(unknown, "TLS", &["UnknownIssuer", "--ca-bundle FILE", "that reads TLS"]).await;
    assert!(world.upstream.requests().is_empty(), "nothing is sent");

    let bundle = world.write("authorities.pem", &authority.pem);
    let trust = ["--ca-bundle", bundle.to_str().unwrap()];
    let mut trusted = command(&world, &url, &private(&["dev"], &trust));
    trusted.env("HTTPS_PROXY", &proxy);
    let (good, document) = checked(trusted).await;
    assert!(good, "{document:#}");
}

/// A host that has only IPv6 addresses, none of them reachable: 2001:db8::/32 is for documentation (RFC 3849).
#[tokio::test]
async fn a_host_with_only_unreachable_ipv6_addresses_is_reported() {
    let world = World::new().await;
    let arguments = private(&["dev"], &["--connect-timeout", "0.3"]);
    let checking = command(&world, "https://[2001:db8::1]/mcp", &arguments);
    assert_problem(checking, "connection", &["[2001:db8::1]:443", "all its addresses are IPv6"])
        .await;
    // The deny: with an IPv4 address, that isn't the problem.
    let (_, document) = checked(command(&world, "https://127.0.0.1:1/mcp", &arguments)).await;
    assert!(!document["problem"]["advice"].as_str().unwrap().contains("IPv6"), "{document:#}");
}

/// The clocks differ by an hour: the server refuses the signature, and the clock is reported first.
#[tokio::test]
async fn a_clock_that_differs_by_an_hour_is_the_first_problem() {
    let hour = std::time::Duration::from_secs(3600);
    for (is_ahead, words) in [(true, "ahead of the server's"), (false, "behind the server's")] {
        let world = World::new().await;
        world.upstream.hook(move |_| {
            let now = std::time::UNIX_EPOCH + sigward_tests::workloads::now();
            let theirs = if is_ahead { now - hour } else { now + hour };
            let date = vec![("date", httpdate::fmt_http_date(theirs))];
            let body = r#"{"message":"Signature expired: 20261126T110000Z is now earlier than 20261126T115500Z"}"#;
            Some(sigward_tests::upstream::Reply::Http(403, date, body.to_owned()))
        });
        let checking = command(&world, &world.upstream.url(), &private(&["dev"], &[]));
        assert_problem(checking, "clock", &[words, "AWS allows 300 s", "timedatectl"]).await;
    }
}

/// A request signed for another service is refused: the error names the options that choose the service.
#[tokio::test]
async fn a_signature_for_another_service_is_reported() {
    let world = World::new().await;
    let mut checking =
        sigward_tests::processes::command(&sigward_tests::processes::binaries().proxy);
    checking.envs(world.home.environment()).env("XDG_RUNTIME_DIR", world.directory.path());
    checking.args(["check", &world.upstream.url(), "--service", "other", "--region", "us-east-1"]);
    checking.args(private(&["dev"], &[]));
    assert_problem(checking, "signature", &["403", "--service"]).await;
}

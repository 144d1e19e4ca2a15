//! The metrics that a collector reads from a running broker.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::setup::{THREE, World, assert_names, own_uid, text, tool_error};

pub(crate) async fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn decisions_states_and_a_bad_configuration_are_counted() {
    let world = World::new().await;
    let uid = own_uid();
    let more = format!(
        "[metrics]\nlisten = \"127.0.0.1:0\"\n[[rule]]\npeer = {{ uid = {uid} }}\nprofiles = [\"dev\"]\nendpoints = [\"upstream\"]\n"
    );
    let broker = world.broker(&world.configuration(&more)).await;
    let line = broker.logged("serving metrics").await;
    let address = line.split("address=").nth(1).unwrap().trim().to_owned();

    let health = get(&address, "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("ok\n"), "{health}");
    let mut client = world.client_of(&world.socket(), &THREE).await;
    text(&client.call("whoami", "{}").await);
    tool_error(&client.call("whoami", r#"{"aws_profile":"prod"}"#).await);

    let metrics = get(&address, "/metrics").await;
    assert_names(
        &metrics,
        &[
            r#"sigward_signatures_total{profile="dev",rule="rule 1",agent="",outcome="signed"}"#,
            r#"sigward_signatures_total{profile="prod",rule="",agent="",outcome="PROFILE_NOT_ALLOWED"}"#,
            r#"sigward_profile_state{profile="dev",state="fresh"} 1"#,
            "sigward_config_rejected 0",
        ],
    );
    world.write("broker.toml", "nonsense = 1");
    broker.signal(rustix::process::Signal::HUP);
    broker.logged("nonsense").await;
    assert_names(&get(&address, "/metrics").await, &["sigward_config_rejected 1"]);
    assert!(get(&address, "/other").await.starts_with("HTTP/1.1 404"));
}

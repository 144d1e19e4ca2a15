//! Traces: the phases of both programs are in one trace, below the client's own if it has one; no trace contains a
//! secret; and a collector that doesn't answer delays nothing.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use rustix::process::Signal;
use sigward_tests::collector::{Collector, Exported};
use sigward_tests::keys::{CANARY, TOKEN_CANARY};
use sigward_tests::processes::{self, Process, StdioClient};
use sigward_tests::workloads::{Workloads, dns};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::agent::SESSIONS;
use crate::http::{Listening, lines};
use crate::setup::{THREE, World, assert_names, connect, failure, own_uid, ping, text};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const SIGN: &str = "sigward.broker.v1.Broker/Sign";

/// How long a program may take to end on a busy machine; an export is abandoned after ten seconds.
const END: Duration = Duration::from_secs(5);

/// A broker that may sign with `profiles`, and exports to `endpoint`.
fn broker(world: &World, profiles: &[&str], endpoint: &str) -> Process {
    Process::start(broker_command(world, profiles, endpoint))
}

fn broker_command(world: &World, profiles: &[&str], endpoint: &str) -> Command {
    let rule = format!(
        "[[rule]]\nname = \"agents\"\npeer = {{ uid = {} }}\nprofiles = {profiles:?}\nendpoints = [\"upstream\"]",
        own_uid()
    );
    let config = world.write("broker.toml", &world.configuration(&rule));
    let mut command = world.broker_command(&["serve", "--config", config.to_str().unwrap()]);
    command.env(ENDPOINT, endpoint);
    command
}

/// A proxy that uses the world's broker, with all profiles.
fn proxy(world: &World, endpoint: &str) -> Command {
    let socket = format!("unix:{}", world.socket().display());
    let mut command = world.proxy(&["--broker", &socket, "--profile"]);
    command.args(THREE).env(ENDPOINT, endpoint);
    command
}

async fn ended(mut broker: Process) {
    broker.signal(Signal::TERM);
    let (status, errors) = broker.ended().await;
    assert!(status.success(), "{errors}");
}

fn children<'a>(spans: &'a [Exported], parent: &Exported) -> Vec<&'a Exported> {
    spans.iter().filter(|span| span.trace == parent.trace && span.parent == parent.id).collect()
}

fn names<'a>(spans: impl IntoIterator<Item = &'a Exported>) -> BTreeSet<&'a str> {
    spans.into_iter().map(|span| span.name.as_str()).collect()
}

/// The only span of this name, which must be the proxy's.
fn request<'a>(spans: &'a [Exported], name: &str) -> &'a Exported {
    let mut found = spans.iter().filter(|span| span.name == name);
    let request = found.next().unwrap_or_else(|| panic!("no {name:?} among {spans:#?}"));
    assert!(found.next().is_none(), "two spans {name:?}: {spans:#?}");
    assert_eq!((request.service.as_str(), request.kind), ("sigward-proxy", SpanKind::Server));
    request
}

/// Whether it is the proxy's phase *sign*, rather than the broker's.
fn is_phase_sign(span: &Exported) -> bool {
    span.name == "sign" && span.service == "sigward-proxy"
}

/// The broker's span below the last phase `sign` of the proxy that is itself below `request`.
fn signing<'a>(spans: &'a [Exported], request: &Exported) -> &'a Exported {
    let mut signs = children(spans, request).into_iter().filter(|span| is_phase_sign(span));
    let sign = signs.next_back().unwrap_or_else(|| panic!("nothing was signed: {spans:#?}"));
    assert_eq!(sign.kind, SpanKind::Client);
    let asked = children(spans, sign);
    assert_eq!(names(asked.iter().copied()), BTreeSet::from([SIGN]), "{spans:#?}");
    let asked = asked[0];
    assert_eq!((asked.service.as_str(), asked.kind), ("sigward-broker", SpanKind::Server));
    asked
}

/// Fails unless each phase lies within its parent span.
fn assert_within(whole: &Exported, phases: &[&Exported]) {
    for phase in phases {
        let (begun, ended) = phase.times;
        let is_within = whole.times.0 <= begun && begun <= ended && ended <= whole.times.1;
        assert!(is_within, "{phase:#?} isn't within {whole:#?}");
    }
}

/// At each log level, since the spans of the log must not change the trace.
#[tokio::test]
async fn the_phases_of_both_programs_are_in_the_trace_of_the_client() {
    for level in ["INFO", "DEBUG"] {
        assert_phases(level).await;
    }
}

async fn assert_phases(level: &str) {
    let (world, collector) = (World::new().await, Collector::start().await);
    // A broker that is confined by Landlock, in a process of its own.
    let mut command = broker_command(&world, &["dev"], &collector.endpoint());
    command.args(["--log-level", level]);
    let broker = Process::start(command);
    broker.logged("listening").await;
    let mut command = proxy(&world, &collector.endpoint());
    command.args(["--log-level", level]);
    let mut client = StdioClient::start(command);
    client.initialize().await;
    let params = format!(
        r#"{{"name":"whoami","arguments":{{}},"_meta":{{"traceparent":"{TRACEPARENT}"}}}}"#
    );
    let called = client.request("tools/call", &params).await;
    assert_eq!(text(&called), world.home.identity("dev"));
    let refused = client.call("echo", r#"{"aws_profile":"prod"}"#).await;
    assert_names(failure(&refused), &["prod"]);
    client.close().await;
    ended(broker).await;

    let spans = collector.spans();
    let call = request(&spans, "tools/call whoami");
    assert_eq!((call.trace.as_str(), call.parent.as_str()), (TRACE, PARENT));
    assert_eq!(call.attribute("sigward.profile"), "dev");
    assert!(!call.is_error);
    let phases = children(&spans, call);
    let expected = BTreeSet::from(["receive", "reply", "route", "send", "sign", "stream"]);
    assert_eq!(names(phases.iter().copied()), expected, "{spans:#?}");
    assert_within(call, &phases);
    let of = |name: &str| phases.iter().find(|span| span.name == name).unwrap().times;
    assert!(of("receive").1 <= of("route").0 && of("stream").0 <= of("reply").0, "{spans:#?}");
    let send = phases.iter().find(|span| span.name == "send").unwrap();
    assert_eq!(send.attribute("http.response.status_code"), "200");
    let signed = signing(&spans, call);
    for (name, value) in [
        ("sigward.profile", "dev"),
        ("sigward.endpoint", "upstream"),
        ("sigward.rule", "agents"),
        ("sigward.decision", "allow"),
        ("sigward.reason", ""),
    ] {
        assert_eq!(signed.attribute(name), value, "{name}");
    }
    assert!(!signed.attribute("sigward.audit_id").is_empty());
    let phases = children(&spans, signed);
    let expected =
        ["accept", "audit", "authorize", "identify", "parse", "reply", "resolve", "sign"];
    assert_eq!(names(phases.iter().copied()), BTreeSet::from(expected), "{spans:#?}");
    assert_within(signed, &phases);
    let of = |name: &str| phases.iter().find(|span| span.name == name).unwrap().times;
    assert!(of("accept").1 <= of("parse").0 && of("audit").1 <= of("reply").0, "{spans:#?}");
    assert!(phases.iter().all(|span| span.service == "sigward-broker"));

    let denied = request(&spans, "tools/call echo");
    assert!(denied.parent.is_empty() && denied.trace != TRACE, "a trace of its own");
    assert!(denied.is_error);
    assert_eq!(denied.attribute("sigward.reason"), "PROFILE_NOT_ALLOWED");
    let decision = signing(&spans, denied);
    assert!(decision.is_error);
    assert_eq!(decision.attribute("sigward.decision"), "deny");
    assert_eq!(decision.attribute("sigward.reason"), "PROFILE_NOT_ALLOWED");
    // Values of a denied request aren't repeated.
    assert_eq!(decision.attribute("sigward.profile"), "");

    // Attributes that adjust a span's times aren't exported.
    let of_times = |span: &Exported| span.attributes.keys().any(|name| name.ends_with("_ns"));
    assert!(!spans.iter().any(of_times), "{spans:#?}");

    // The server sees no trace that the client didn't send.
    let requests = world.upstream.requests();
    assert!(requests.iter().all(|request| request.header("traceparent").is_none()));
    let own = request(&spans, "initialize");
    assert!(own.parent.is_empty(), "{own:?}");
}

/// An HTTP client names its trace in a header, which is forwarded unchanged. Proxy and private broker re-execute
/// themselves without the AWS variables, but keep those of OpenTelemetry.
#[tokio::test]
async fn the_trace_header_of_an_http_client_is_used_and_forwarded_unchanged() {
    for profile in ["dev", "prod"] {
        let (world, collector) = (World::new().await, Collector::start().await);
        let mut command = world.private_proxy(&THREE, &["--listen", "127.0.0.1:0"]);
        command.env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.endpoint());
        command.env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20of-the-collector");
        let mut proxy = Listening::started(Process::start(command)).await;
        let session = proxy.session(SESSIONS).await;
        let headers = [&lines(&session)[..], &[("traceparent", TRACEPARENT)]].concat();
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"whoami","arguments":{{"aws_profile":"{profile}"}}}}}}"#
        );
        let called = proxy.post(&headers, &call).await.message().await;
        assert_eq!(text(&called), world.home.identity(profile));
        let brokers = processes::children(proxy.proxy.pid());
        assert_eq!(brokers.len(), 1, "a private broker");
        proxy.proxy.signal(Signal::TERM);
        proxy.proxy.ended().await;
        // The broker exports its spans when it ends, which it does when its connection to the proxy closes.
        let mut spans = collector.spans();
        for count in 1.. {
            let is_asked = |span: &Exported| names(children(&spans, span)).contains(SIGN);
            if spans.iter().filter(|it| it.trace == TRACE && is_phase_sign(it)).all(is_asked) {
                break;
            }
            collector.requests(count).await;
            spans = collector.spans();
        }
        let call = request(&spans, "tools/call whoami");
        assert_eq!((call.trace.as_str(), call.parent.as_str()), (TRACE, PARENT), "{profile}");
        assert_eq!(call.attribute("sigward.profile"), profile);
        let phases = names(children(&spans, call));
        assert!(
            phases.is_superset(&BTreeSet::from([
                "receive", "reply", "route", "send", "sign", "stream"
            ])),
            "{phases:?}"
        );
        assert_eq!(signing(&spans, call).attribute("sigward.profile"), profile);
        let sent = world.upstream.requests_of("tools/call").remove(0);
        assert_eq!(sent.header("traceparent"), Some(TRACEPARENT));
        assert_eq!(collector.tokens(), BTreeSet::from(["Bearer of-the-collector".to_owned()]));
    }
}

/// Spans contain names, decisions and states, but no arguments, results, keys or signatures.
#[tokio::test]
async fn no_span_has_an_argument_a_result_a_key_or_a_signature() {
    const ARGUMENT: &str = "canary-of-an-argument";
    let (world, collector) = (World::new().await, Collector::start().await);
    let broker = broker(&world, &THREE, &collector.endpoint());
    broker.logged("listening").await;
    let mut command = proxy(&world, &collector.endpoint());
    command
        .args(["--log-level", "DEBUG"])
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-token=canary-of-a-header");
    let mut client = StdioClient::start(command);
    client.initialize().await;
    for profile in THREE {
        let arguments = format!(r#"{{"aws_profile":"{profile}","text":"{ARGUMENT}"}}"#);
        assert_names(text(&client.call("echo", &arguments).await), &[ARGUMENT]);
        text(&client.call("whoami", &arguments).await);
    }
    failure(&client.call("whoami", &format!(r#"{{"aws_profile":"{ARGUMENT}"}}"#)).await);
    let long = format!("tool-{}", "x".repeat(10_000));
    client.call(&long, "{}").await;
    client.close().await;
    ended(broker).await;

    assert!(collector.spans().iter().filter(|span| span.name == SIGN).count() >= 6);
    let bytes = collector.bytes();
    let there = |text: &str| memchr::memmem::find(&bytes, text.as_bytes()).is_some();
    assert!(there("whoami") && there("staging"), "the control: the search works");
    let mut canaries = vec![ARGUMENT.to_owned(), "canary-of-a-header".to_owned(), "x".repeat(100)];
    canaries.extend([CANARY, TOKEN_CANARY, "AWS4-HMAC", "Credential="].map(str::to_owned));
    canaries.extend(THREE.iter().map(|profile| world.home.key(profile).access_key_id.clone()));
    canaries.extend(THREE.iter().map(|profile| world.home.identity(profile).to_owned()));
    for request in world.upstream.requests() {
        let authorization = request.header("authorization").unwrap();
        canaries.push(authorization.rsplit('=').next().unwrap().to_owned());
        canaries.extend(request.header("mcp-session-id").map(str::to_owned));
    }
    for canary in canaries {
        assert!(!there(&canary), "{canary} was exported");
    }
}

/// The number of a process's threads that export.
fn exporters(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("Linux");
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
    tasks.filter_map(|task| name(task.unwrap()).ok()).filter(|name| name.trim() == "traces").count()
}

#[tokio::test]
async fn traces_are_off_unless_the_environment_asks_for_them() {
    let (world, collector) = (World::new().await, Collector::start().await);
    let endpoint = collector.endpoint();
    let on = (ENDPOINT, endpoint.as_str());
    for (variables, exporting) in [
        (&[][..], 0),
        (&[("OTEL_SERVICE_NAME", "agent")], 0),
        (&[on, ("OTEL_SDK_DISABLED", "true")], 0),
        (&[on, ("OTEL_TRACES_EXPORTER", "none")], 0),
        (&[on], 1),
    ] {
        let mut command = world.private_proxy(&["dev"], &[]);
        command.envs(variables.iter().copied());
        let mut client = StdioClient::start(command);
        client.initialize().await;
        text(&client.call("whoami", "{}").await);
        let proxy = client.process().pid();
        let broker = processes::children(proxy)[0];
        assert_eq!((exporters(proxy), exporters(broker)), (exporting, exporting), "{variables:?}");
        client.close().await;
        if exporting == 0 {
            assert!(collector.spans().is_empty(), "{variables:?}");
        }
    }
    assert!(!collector.spans().is_empty());
}

/// With an authority of its own, and files that the confined broker couldn't open.
#[tokio::test]
async fn a_collector_over_tls_needs_a_certificate_of_the_named_authority() {
    let authority = Workloads::new();
    let files = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    };
    let ours = authority.issue(&[dns("agent.test.example")]);
    let (certificate, key) = (write("cert", &ours.cert), write("key", &ours.key));
    for (trusted, is_known) in [(authority.pem(), true), (Workloads::new().pem(), false)] {
        let collectors = authority.issue(&[dns("localhost")]);
        let collector = Collector::over_tls(&collectors, &authority.pem()).await;
        let world = World::new().await;
        let variables = [
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", write("ca", &trusted)),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", certificate.clone()),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", key.clone()),
        ];
        let mut command = broker_command(&world, &["dev"], &collector.endpoint());
        command.envs(variables.clone());
        let mut broker = Process::start(command);
        broker.logged("listening").await;
        let mut command = proxy(&world, &collector.endpoint());
        command.args(["--log-level", "WARNING"]).envs(variables);
        let mut client = StdioClient::start(command);
        client.initialize().await;
        text(&client.call("whoami", "{}").await);
        if is_known {
            // One export of each program.
            collector.requests(2).await;
        } else {
            client.process().logged("the collector doesn't accept traces").await;
            broker.logged("the collector doesn't accept traces").await;
        }
        client.close().await;
        broker.signal(Signal::TERM);
        let (_, errors) = broker.ended().await;
        let services: BTreeSet<String> =
            collector.spans().into_iter().map(|span| span.service).collect();
        let both = BTreeSet::from(["sigward-broker", "sigward-proxy"].map(str::to_owned));
        assert_eq!(services, if is_known { both } else { BTreeSet::new() }, "{errors}");
        assert!(!errors.contains(ours.key.lines().nth(1).unwrap()), "a key is logged");
    }
}

/// Neither calls nor the end of a program wait for a collector that accepts spans and never answers.
#[tokio::test]
async fn a_collector_that_never_answers_delays_no_call_and_no_exit() {
    let (world, collector) = (World::new().await, Collector::silent().await);
    let mut broker = broker(&world, &["dev"], &collector.endpoint());
    broker.logged("listening").await;
    let mut command = proxy(&world, &collector.endpoint());
    command.args(["--log-level", "WARNING"]);
    let mut client = StdioClient::start(command);
    client.initialize().await;
    text(&client.call("whoami", "{}").await);
    // One export of each program.
    collector.requests(2).await;
    let begun = Instant::now();
    for _ in 0..20 {
        text(&client.call("whoami", "{}").await);
    }
    assert!(begun.elapsed() < END, "calls wait for the collector");
    let begun = Instant::now();
    let (status, _, errors) = client.close().await;
    assert!(status.success() && begun.elapsed() < END, "{:?}", begun.elapsed());
    assert_names(&errors, &["the last spans weren't exported in time"]);
    let begun = Instant::now();
    broker.signal(Signal::TERM);
    let (status, errors) = broker.ended().await;
    assert!(status.success() && begun.elapsed() < END, "{:?}", begun.elapsed());
    assert_names(&errors, &["the last spans weren't exported in time"]);
}

/// A collector that can't be used is reported once, and signing continues.
#[tokio::test]
async fn an_unreachable_or_invalid_collector_is_reported_and_all_else_works() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (endpoint, says) in [
        (format!("http://{closed}"), &["the collector doesn't accept traces", "lost="][..]),
        (
            "http://collector.example:4317".to_owned(),
            &["no traces are exported", ENDPOINT, "https://"],
        ),
        ("localhost".to_owned(), &["no traces are exported", ENDPOINT, "http://127.0.0.1:4317"]),
    ] {
        let world = World::new().await;
        let broker = broker(&world, &["dev"], &endpoint);
        broker.logged("listening").await;
        connect(&world.socket()).await.sign(ping(&world, "dev")).await.unwrap();
        assert_names(&broker.logged(says[0]).await, says);
        let mut client = StdioClient::start(proxy(&world, &endpoint));
        client.initialize().await;
        text(&client.call("whoami", "{}").await);
        if says[0].starts_with("no ") {
            assert_names(&client.process().logged(says[0]).await, says);
        }
        client.close().await;
        ended(broker).await;
    }
}

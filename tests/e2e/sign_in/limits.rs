//! Requests to AWS for sign-ins: none before the sign-in is recorded, and only at a limited rate.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use sigward_proto::v1::login_response::Event;
use sigward_proto::v1::{ListProfilesRequest, LoginRequest};
use sigward_tests::deadline;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{broker_of, signed_out};
use crate::setup::{connect, own_uid, ping};

fn person() -> LoginRequest {
    LoginRequest { profile: "person".to_owned() }
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// As with signatures, nothing is done without a record: AWS isn't asked before, however long recording takes.
#[tokio::test]
async fn a_sign_in_starts_only_after_it_is_recorded() {
    let (world, aws) = signed_out().await;
    // A full pipe: records wait until it is read.
    let audit = world.directory.path().join("audit");
    mknodat(CWD, &audit, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut options = File::options();
    let none = OFlags::NONBLOCK.bits().cast_signed();
    let mut pipe = options.read(true).write(true).custom_flags(none).open(&audit).unwrap();
    let _broker = broker_of(&world, &aws, true, &audit).await;
    while pipe.write(&[b'-'; 4096]).is_ok() {}
    let mut client = connect(&world.socket()).await;
    let login = {
        let mut client = client.clone();
        tokio::spawn(async move { client.login(person()).await })
    };
    for _ in 0..150 {
        client.list_profiles(ListProfilesRequest {}).await.unwrap();
    }
    assert_eq!(aws.sign_ins(), [""; 0], "AWS was asked before anything was recorded");
    assert!(!login.is_finished());
    let mut read = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let recorded = async {
        while !String::from_utf8_lossy(&read).contains("\"login\"") {
            let mut bytes = [0; 4096];
            match pipe.read(&mut bytes) {
                Ok(length) => read.extend_from_slice(&bytes[..length]),
                Err(_) => drop(ticks.tick().await),
            }
        }
    };
    deadline::within(recorded, || "there is no record".to_owned()).await;
    let mut events = login.await.unwrap().expect("it is recorded").into_inner();
    let shown = events.message().await.unwrap().and_then(|it| it.event);
    assert!(matches!(shown, Some(Event::Prompt(_))), "{shown:?}");
}

#[tokio::test]
async fn a_sign_in_that_cannot_be_recorded_is_refused() {
    let (world, aws) = signed_out().await;
    let _broker = broker_of(&world, &aws, true, "/dev/full".as_ref()).await;
    let mut client = connect(&world.socket()).await;
    let refused = client.login(person()).await.expect_err("there is no record");
    assert_eq!(reason(&refused), "AUDIT_UNAVAILABLE", "{refused}");
    assert_eq!(aws.sign_ins(), [""; 0]);
}

/// The attack: sign-ins are opened and dropped in a loop, and AWS is asked for a code for each, until it limits
/// everyone.
#[tokio::test]
async fn dropped_sign_ins_are_rate_limited() {
    let (world, aws) = signed_out().await;
    let audit = world.directory.path().join("audit.jsonl");
    let _broker = broker_of(&world, &aws, true, &audit).await;
    let mut client = connect(&world.socket()).await;
    let started = Instant::now();
    let mut begun = 0;
    let refused = loop {
        match client.login(person()).await {
            Ok(events) => {
                let shown = events.into_inner().message().await.unwrap().and_then(|it| it.event);
                assert!(matches!(shown, Some(Event::Prompt(_))), "{shown:?}");
                begun += 1;
            }
            Err(status) => break status,
        }
        assert!(begun < 500, "there is no rate");
    };
    let seconds = usize::try_from(started.elapsed().as_secs()).unwrap();
    assert!(begun <= 20 + seconds + 1, "{begun} in {seconds} s");
    assert_eq!((refused.code(), &*reason(&refused)), (Code::ResourceExhausted, "RATE_LIMITED"));
    assert!(refused.get_error_details().retry_info().is_some());
    let codes = aws.sign_ins().iter().filter(|it| *it == "/device_authorization").count();
    assert!(codes <= begun, "{codes} codes for {begun} sign-ins");
    // All other requests of this user are still served.
    client.sign(ping(&world, "dev")).await.unwrap();
    client.list_profiles(ListProfilesRequest {}).await.unwrap();
    let denied = super::records(&audit, "call");
    assert!(denied.iter().any(|it| it["reason"] == "RATE_LIMITED" && it["uid"] == own_uid()));
}
